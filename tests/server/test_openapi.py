"""The description at /openapi.json, and whether the server does what it says."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import unsupported_method

from pipeline.config.loading import load_config
from pipeline.server import openapi
from pipeline.server.app import create_app
from pipeline.server.messages import RequestError, decode_base64
from tests.support.exported_model import export, random_model, transform_graph
from tests.support.paths import TINY
from tests.support.server_process import ServerProcess, served

pytestmark = pytest.mark.slow
EXAMPLES = 60  # for each operation
BINARY = "application/octet-stream"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("openapi")
    export(folder / "serving" / "1", random_model(), transform_graph(folder))
    with served(folder / "serving", folder / "log", "server.labels={stable: 1}") as process:
        yield process


@pytest.fixture
def described(server: ServerProcess) -> Any:
    config = SchemathesisConfig.discover()
    return schemathesis.openapi.from_url(f"{server.url}/openapi.json")


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_the_description_says(case: Any) -> None:
    case.call_and_validate()
