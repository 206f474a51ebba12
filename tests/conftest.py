"""What every test needs: the quiet start that the command gives its users."""

import pytest

from pipeline.logs import silence

silence()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first: `make test` gives whole files to its workers, and none shall be left with a long one alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
