"""A server for the tests that ask it from outside."""

from collections.abc import Iterator

import pytest

from tests.support.exported_model import export, random_model, transform_graph
from tests.support.server_process import ServerProcess, served


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with version 3, which has the label `stable`, and with a version 5 that cannot be loaded."""
    folder = tmp_path_factory.mktemp("running")
    serving = folder / "serving"
    export(serving / "3", random_model(), transform_graph(folder))
    (serving / "5").mkdir()
    (serving / "5" / "saved_model.pb").write_bytes(b"no model")
    with served(serving, folder / "log", "server.labels={stable: 3, lost: 4}") as process:
        yield process
