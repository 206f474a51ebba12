"""Clients that others wrote: KServe's and Triton's, requests, curl, and one that is generated from /openapi.json. See make test-clients."""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.exported_model import PICTURES
from tests.support.paths import ROOT
from tests.support.server_process import ServerProcess

CLIENTS = os.environ.get("CLIENTS", "")
SCRIPT = ROOT / "tests" / "clients" / "read.py"
pytestmark = pytest.mark.slow
needs_clients = pytest.mark.skipif(not CLIENTS, reason="CLIENTS is not set; see make test-clients")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(PICTURES[0])
    return path


@pytest.fixture
def expected(running: ServerProcess) -> Any:
    """What the server says without a client's help."""
    body = {"instances": [{"b64": base64.b64encode(PICTURES[0]).decode()}]}
    return running.request("POST", f"/v1/models/{running.name}:predict", body).json["predictions"][0]


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(client: str, running: ServerProcess, picture: Path, **environment: str) -> Any:
    output = run(Path(CLIENTS) / "bin" / "python", SCRIPT, client, running.url, running.name, picture, **environment)
    return json.loads(output.splitlines()[-1])


def assert_same(answer: Any, expected: Any) -> None:
    assert answer.get("ready", True) is True
    assert answer["text"] == expected["text"]
    assert answer["valid"] is True
    assert answer["confidence"] == pytest.approx(expected["confidence"], abs=1e-5)


@needs_clients
@pytest.mark.parametrize("client", ["kserve_v1", "kserve_v2", "kserve_v2_json", "triton", "triton_json"])
def test_clients_of_others(running: ServerProcess, picture: Path, expected: Any, client: str) -> None:
    answer = read(client, running, picture)
    assert_same(answer, expected)
    assert answer.get("id", "1") == "1"


@needs_clients
def test_requests(running: ServerProcess, picture: Path, expected: Any) -> None:
    answer = read("requests", running, picture)
    assert_same(answer, expected)
    assert answer["too_long"] == 413  # and no broken connection


@needs_clients
def test_a_client_generated_from_the_description(running: ServerProcess, picture: Path, expected: Any, tmp_path: Path) -> None:
    generated = tmp_path / "client"
    generated.mkdir()
    path = f"{Path(CLIENTS) / 'bin'}:{os.environ['PATH']}"  # it formats what it wrote with ruff
    run(
        Path(CLIENTS) / "bin" / "openapi-python-client",
        "generate",
        "--fail-on-warning",
        "--meta=none",
        f"--config={ROOT / 'tests' / 'clients' / 'generator.yaml'}",
        f"--url={running.url}/openapi.json",
        f"--output-path={generated / 'captcha_pipeline_client'}",
        PATH=path,
    )
    assert_same(read("generated", running, picture, PYTHONPATH=str(generated)), expected)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(running: ServerProcess, expected: Any) -> None:
    model = f"{running.url}/v1/models/{running.name}"
    text = base64.b64encode(PICTURES[0]).decode()
    rows = json.dumps({"signature_name": "serving_default", "instances": [{"b64": text}]})
    column = json.dumps({"inputs": {"image": [{"b64": text}]}})
    for url in (model, f"{model}/versions/3", f"{model}/labels/stable"):
        assert json.loads(run("curl", "-sf", url))["model_version_status"][0]["state"] == "AVAILABLE"
        assert json.loads(run("curl", "-sf", f"{url}/metadata"))["model_spec"]["version"] == "3"
        for http in ("--http1.0", "--http1.1", "--http2"):  # the last wishes to upgrade
            assert json.loads(run("curl", "-sf", http, "-d", rows, "-X", "POST", f"{url}:predict"))["predictions"] == [expected]
        assert json.loads(run("curl", "-sf", "-d", column, f"{url}:predict"))["outputs"]["text"] == [expected["text"]]
