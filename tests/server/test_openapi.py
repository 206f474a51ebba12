"""The description at /openapi.json, and whether the server does what it says."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from starlette.routing import Route

from pipeline.config.loading import load_config
from pipeline.server.app import create_app
from pipeline.server.messages import RequestError, decode_base64
from pipeline.server.openapi import describe
from tests.support.exported_model import PICTURES
from tests.support.paths import ROOT, SUPPORT, TINY
from tests.support.server_process import ServerProcess

EXAMPLES = 30  # for each operation


def test_every_route_is_described(tmp_path: Path) -> None:
    config = load_config(TINY, [f"pusher.serving_dir={tmp_path}"])
    described = {(path, method.upper()) for path, item in describe(config.served_name)["paths"].items() for method in item}
    routes = {
        (re.sub(r":segment", "", route.path), method)
        for route in create_app(config).routes
        if isinstance(route, Route) and route.methods
        for method in route.methods - {"HEAD"}  # as GET
    }
    assert described == routes


def test_the_schemas_are_schemas() -> None:
    description = describe("tiny", ["stable"])
    for schema in description["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [operation["operationId"] for item in description["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))


_BASE64 = describe("tiny")["components"]["schemas"]["Base64"]["properties"]["b64"]["pattern"]


@given(st.one_of(st.text("AZaz09+/= \t\n-_é", max_size=12), st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode())))
def test_the_server_decodes_what_the_description_calls_base64(text: str) -> None:
    try:
        decode_base64(text)
    except RequestError:
        assert not re.fullmatch(_BASE64, text)
    else:
        assert re.fullmatch(_BASE64, text)


@pytest.mark.parametrize("text", ["aGVsbG8=", "aGVsbG8", " aGVs\nbG8= ", "aGVsbG8= "])
def test_base64_may_have_white_space_and_no_padding(text: str) -> None:
    assert decode_base64(text) == b"hello"


@pytest.mark.long
def test_schemathesis_finds_nothing(running: ServerProcess, tmp_path: Path) -> None:
    command: list[str | Path] = [Path(sys.executable).with_name("schemathesis"), "--config-file", SUPPORT / "schemathesis.toml"]
    command += ["run", f"{running.url}/openapi.json", "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Tested: 31" in found.stdout


@pytest.mark.slow
def test_a_good_request_fits_the_description(running: ServerProcess) -> None:
    description = running.request("GET", "/openapi.json").json
    schemas = {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": description["components"]}
    body = {"instances": [{"image": {"b64": base64.b64encode(picture).decode()}} for picture in PICTURES]}
    answer = running.request("POST", f"/v1/models/{running.name}:predict", body)
    for name, content in (("PredictRequest", body), ("PredictResponse", answer.json)):
        Draft202012Validator(schemas | {"$ref": f"#/components/schemas/{name}"}).validate(content)
    assert [row["valid"] for row in answer.json["predictions"]] == [True] * len(PICTURES)
