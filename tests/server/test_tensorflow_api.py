"""TensorFlow Serving's REST interface, held against the cases of its own tests.

The cases are those of json_tensor_test.cc and http_rest_api_handler_test.cc (TensorFlow Serving 2.x) that concern paths, JSON, or inputs
of strings, with values that fit our models. `says` is the part of the message that its tests look for, or a part that its code writes.
"""

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.support.exported_model import EXAMPLES, LABELS, PICTURES
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.slow


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def predict(running: ServerProcess, body: Any, where: str = "") -> Any:
    answer = running.request("POST", f"/v1/models/{running.name}{where}:predict", body)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json


# Method, path after /v1, status, and what the message says. NAME is the model, of which versions 3 and 5 exist.
PATHS = [
    # UnsupportedApiCalls
    ("GET", "/foo", 400, "Malformed request"),
    ("POST", "/foo", 400, "Malformed request"),
    ("GET", "/models", 400, "Missing model name"),
    ("GET", "/models/debug/model_name", 400, "Malformed request"),
    ("POST", "/models", 400, "Malformed request"),
    ("GET", "/models/foo:predict", 400, "Malformed request"),
    ("GET", "/models/foo/version/50:predict", 400, "Malformed request"),
    ("POST", "/models/foo/version/50:regress", 400, "Malformed request"),
    ("POST", "/models/foo/versions/HELLO:regress", 400, "Malformed request"),
    ("POST", f"/models/foo/versions/{2**64 - 1}:regress", 400, "Failed to convert version"),
    ("POST", "/models/foo/metadata", 400, "Malformed request"),
    ("POST", "/models/foo/label/some_label:regress", 400, "Malformed request"),
    ("POST", "/models/foo/versions/50/labels/some_label:regress", 400, "Malformed request"),
    ("POST", "/models/foo/versions/some_label:regress", 400, "Malformed request"),
    # PredictModelNameVersionErrors, and the status and metadata of what does not exist
    ("POST", "/models/foo:predict", 404, "Servable not found"),
    ("POST", "/models/foo/versions/50:predict", 404, "Servable not found"),
    ("POST", "/models/NAME99:predict", 404, "Servable not found"),
    ("POST", "/models/NAME/versions/99:predict", 404, "Servable not found for request: Specific(99)"),
    ("POST", "/models/NAME/versions/5:predict", 404, "Servable not found for request: Specific(5)"),
    ("GET", "/models/foo", 404, "Could not find any versions of model foo"),
    ("GET", "/models/NAME/versions/99", 404, "Could not find version 99 of model NAME"),
    ("GET", "/models/foo/metadata", 404, "Servable not found"),
    ("GET", "/models/NAME/versions/99/metadata", 404, "Servable not found"),
    # PredictRequestErrors: a label that does not exist; and one whose version is not loaded
    ("POST", "/models/NAME/labels/Version_Nonexistent:predict", 400, "Unrecognized servable version label"),
    ("POST", "/models/NAME/labels/lost:predict", 404, "Servable not found for request: Specific(4)"),
    # Beyond its tests
    ("DELETE", "/models/NAME", 400, "Malformed request: DELETE /v1/models/NAME"),
    ("PUT", "/models/NAME:predict", 400, "Malformed request"),
    ("GET", "/models/NAME/", 400, "Malformed request"),
    ("GET", "/models/NAME/versions/-1", 400, "Malformed request"),
    ("GET", "/models/NAME/versions/٣", 400, "Malformed request"),
    ("POST", "/models/NAME:classify", 400, "Expected tensorflow/serving/classify signature method_name"),
    ("POST", "/models/NAME/versions/3:regress", 400, "Expected tensorflow/serving/regress signature method_name"),
]


@pytest.mark.parametrize(("method", "path", "status", "says"), PATHS)
def test_paths(running: ServerProcess, method: str, path: str, status: int, says: str) -> None:
    path = "/v1" + path.replace("NAME", running.name).replace("٣", "%D9%A3")
    answer = running.request(method, path, {"instances": ["x"]} if method == "POST" else None)
    assert (answer.status, answer.headers["Content-Type"]) == (status, "application/json")
    assert says.replace("NAME", running.name) in answer.error


DEEP = b"[" * 500_000 + b"]" * 500_000
HELLO = {"b64": "aGVsbG8="}
# Body, and what the message says. All get status 400.
BODIES = [
    # SingleUnnamedTensorErrors and PredictRequestErrors
    (b"", "The document is empty"),
    (b"instances = [1, 2]", "JSON Parse error"),
    ({"signature_name": 5, "instances": ["x"]}, "'signature_name' key must be a string value."),
    ({"signature_name": 100}, "'signature_name' key must be a string value."),
    ({"instances": ["x"], "inputs": ["x"]}, "Not formatted correctly"),
    ({"instances": [1, 2]}, "Type: Number is not of expected type: string"),
    ({"instances": [None]}, "Type: Null is not of expected type: string"),
    ({"instances": [True]}, "Type: True is not of expected type: string"),
    ({"instances": ["x", ["x"]]}, "list"),  # "Expecting shape"
    # MultipleNamedTensorErrors
    ({"instances": [{"image": "x"}, ["x"]]}, "Expecting object but got list"),
    ({"instances": [["x"], {"image": "x"}]}, "list"),  # lists do not fit the input either
    ({"instances": ["x", {"image": "x"}]}, "Expecting value/list but got object"),
    ({"instances": [HELLO, {"image": HELLO}]}, "Expecting value/list but got object at item 1"),
    ({"instances": [{"image": "x"}, {"image": 5}]}, "Failed to process element: 1 key: image of 'instances' list. Error"),
    ({"instances": [{"image": "x", "more": "x"}]}, "keys must be equal to: image"),
    ({"instances": [{}]}, "keys must be equal to: image"),
    # DeeplyNestedMalformed
    (b'{"signature_name":' + DEEP + b"}", "JSON Parse error"),
    (b'{"signature_name":' + DEEP[499_700:500_300] + b"}", "key must be a string value"),
    # What the code of ParseJson and FillTensorMap… refuses
    (b"[]", "Is not object"),
    (b'{"instances": ["x"]', "JSON Parse error"),
    (b'{"instances": ["\xff"]}', "JSON Parse error"),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"instances": "x"}, "Expecting 'instances' to be an list/array"),
    ({"instances": []}, "No values in 'instances' array"),
    ({"instances": [{"b64": "x"}]}, "Unable to base64 decode"),
    ({"instances": [{"b64": "aGVs-_8="}]}, "Unable to base64 decode"),  # the alphabet of URLs
    ({"instances": [{"b64": 5}]}, "keys must be equal to: image"),
    ({"instances": [{"image": {"b64": 5}}]}, "not formatted correctly for base64 data"),
    ({"inputs": {"other": ["x"]}}, "Missing named input: image in 'inputs' object."),
    ({"inputs": {"image": [5]}}, "is not of expected type: string"),
    ({"inputs": [{"image": "x"}]}, "not formatted correctly for base64 data"),
    ({"signature_name": "other", "instances": ["x"]}, 'Serving signature name: "other" not found in signature def'),
    # A tensor of another shape than the model's
    ({"inputs": HELLO}, "list"),
    ({"inputs": [[HELLO]]}, "list"),
    ({"instances": [[HELLO]]}, "list"),
    ({"signature_name": "serving_examples", "instances": [b64(b"\xff\xfe")]}, ""),
]


@pytest.mark.parametrize(("body", "says"), BODIES, ids=range(len(BODIES)))
def test_bodies(running: ServerProcess, body: Any, says: str) -> None:
    answer = running.request("POST", f"/v1/models/{running.name}:predict", body)
    assert answer.status == 400, answer.body
    assert says in answer.error
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [b64(picture) for picture in PICTURES]},
        {"instances": [{"image": b64(picture)} for picture in PICTURES]},
        {"signature_name": "serving_default", "instances": [b64(picture) for picture in PICTURES]},
        {"signature_name": "", "instances": [b64(picture) for picture in PICTURES]},
        {"signature_name": "serving_examples", "instances": [{"examples": b64(example)} for example in EXAMPLES]},
        {"instances": [b64(picture) for picture in PICTURES], "context": [[[1]]]},
    ],
    ids=range(6),
)
@pytest.mark.parametrize("where", ["", "/versions/3", "/labels/stable"])
def test_rows(running: ServerProcess, body: Any, where: str) -> None:
    rows = predict(running, body, where)["predictions"]
    assert [sorted(row) for row in rows] == [["confidence", "probabilities", "text", "valid"]] * len(LABELS)
    assert all(row["valid"] and set(row["text"]) <= set("абв漢字") for row in rows)


@pytest.mark.parametrize("name", ["", "image"])
def test_columns(running: ServerProcess, name: str) -> None:
    values = [b64(picture) for picture in PICTURES]
    column = predict(running, {"inputs": {name: values} if name else values})["outputs"]
    rows = predict(running, {"instances": values})["predictions"]
    for output in ("text", "valid"):
        assert column[output] == [row[output] for row in rows]
    np.testing.assert_allclose(column["probabilities"], [row["probabilities"] for row in rows], atol=1e-6)


def test_a_single_output_has_no_name(running: ServerProcess) -> None:
    values = [b64(example) for example in EXAMPLES]
    rows = predict(running, {"signature_name": "transform_features", "instances": values})["predictions"]
    assert predict(running, {"signature_name": "transform_features", "inputs": values})["outputs"] == rows
    assert len(rows) == len(EXAMPLES)


def test_a_column_may_be_empty(running: ServerProcess) -> None:
    assert predict(running, {"inputs": []})["outputs"]["text"] == []  # FromJsonMultipleZeroBatchTensors


def test_strings_are_bytes(running: ServerProcess) -> None:
    assert predict(running, {"instances": ["no picture", "é\x00"]})["predictions"][1]["valid"] is False


def test_numbers_can_be_read_back(running: ServerProcess) -> None:
    answer = running.request("POST", f"/v1/models/{running.name}:predict", {"instances": [b64(PICTURES[0]), "x"]})
    numbers = json.loads(answer.body, parse_int=lambda text: pytest.fail(f"{text} has no decimal point"))
    confidence = numbers["predictions"][0]["confidence"]
    assert float(np.float32(confidence)) == pytest.approx(confidence, rel=1e-7)  # as short as a float32


def test_status(running: ServerProcess) -> None:
    good = {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for where in ("/versions/3", "/labels/stable"):
        assert running.request("GET", f"/v1/models/{running.name}{where}").json == {"model_version_status": [good]}
    every = running.request("GET", f"/v1/models/{running.name}").json["model_version_status"]
    assert every[0] == good
    assert (every[1]["version"], every[1]["state"]) == ("5", "END")
    assert every[1]["status"]["error_message"]


def test_metadata(running: ServerProcess) -> None:
    found = running.request("GET", f"/v1/models/{running.name}/metadata").json
    assert found["model_spec"] == {"name": running.name, "signature_name": "", "version": "3"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "serving_examples", "transform_features"} <= set(signatures)
    default = signatures["serving_default"]
    assert default["method_name"] == "tensorflow/serving/predict"
    assert default["inputs"]["image"]["dtype"] == "DT_STRING"
    assert default["inputs"]["image"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    for where in ("/versions/3", "/labels/stable"):
        assert running.request("GET", f"/v1/models/{running.name}{where}/metadata").json == found


def test_curl_as_in_the_guide(running: ServerProcess) -> None:
    # The guide's clients send no content type, or another one, and any path of a version.
    body = {"signature_name": "serving_default", "instances": [b64(PICTURES[0])]}
    path = f"/v1/models/{running.name}/versions/3:predict"
    for kind in ("application/x-www-form-urlencoded", "application/json", "text/plain"):
        assert running.request("POST", path, body, {"Content-Type": kind}).json["predictions"][0]["valid"] is True
