"""A server for the tests that ask it from outside."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, served


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[ServerProcess]:
    """A server with version 3, which has the label `stable`, and with a version 5 that cannot be loaded."""
    folder = tmp_path_factory.mktemp("running")
    serving = folder / "serving"
    shutil.copytree(model, serving / "3")
    (serving / "5").mkdir()
    (serving / "5" / "saved_model.pb").write_bytes(b"no model")
    with served(serving, folder / "log", "server.labels={stable: 3, lost: 4}") as process:
        yield process
