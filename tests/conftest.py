"""The setup of all tests: the same silenced start-up as on the command line."""

import pytest
from hypothesis import settings

from pipeline.logs import silence

silence()
# No time limit per example: a busy machine is no error.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first: `make test` gives whole files to its workers, and must not end with one long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in slow)
