"""The setup of all tests: the same silenced start-up as on the command line."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pipeline.logs import silence

if TYPE_CHECKING:
    import tensorflow_transform as tft

silence()
# No time limit per example: a busy machine is no error.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files with slow tests first: `make test` gives whole files to its workers, and must not end with one long file."""
    slow = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> "tft.TFTransformOutput":
    """Transform's graph for the models of tests.support.exported_model."""
    from tests.support.exported_model import transform_graph  # imports TensorFlow, which many tests do not need

    return transform_graph(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, graph: "tft.TFTransformOutput") -> Path:
    """An exported model with random weights. Tests only read it."""
    from tests.support.exported_model import export, random_model

    return export(tmp_path_factory.mktemp("exported") / "model", random_model(), graph)
