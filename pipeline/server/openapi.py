"""GET /openapi.json: the description of all routes, in OpenAPI 3.1, from which tools generate clients and documentation."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from components.base.features import CONFIDENCE, PROBABILITIES, TEXT, VALID
from pipeline.server.messages import json_response

Json = dict[str, Any]

# White space and missing padding are accepted, as by TensorFlow Serving.
_SPACE: Final = r"[ \t-\r]*"
_DIGIT: Final = rf"(?:[A-Za-z0-9+/]{_SPACE})"
_BASE64: Final = rf"^{_SPACE}(?:{_DIGIT}{{4}})*(?:{_DIGIT}{{2}}(?:={_SPACE}){{0,2}}|{_DIGIT}{{3}}(?:={_SPACE})?)?$"
_RETRY: Final = {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_STRING: Final = {"type": "string"}
_STRINGS: Final = {"type": "array", "items": _STRING}
_NUMBER: Final = {"type": "number", "minimum": 0, "maximum": 1}
_BOOLEAN: Final = {"type": "boolean"}
_OUTPUTS: Final[Json] = {
    TEXT: _STRING | {"description": 'The text; "" for a bad picture.'},
    CONFIDENCE: _NUMBER | {"description": "The probability of the text."},
    PROBABILITIES: {"type": "array", "items": {"type": "array", "items": _NUMBER}, "description": "Of each class at each position."},
    VALID: _BOOLEAN | {"description": "False for a picture that cannot be decoded."},
}
_DATATYPES: Final = ("BYTES", "FP32", "BOOL", "INT64")


def describe(name: str, labels: Iterable[str] = ()) -> Json:
    """Returns the description of a server.

    Args:
      name: of the model.
      labels: of versions.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "captcha-pipeline",
            "version": importlib.metadata.version("captcha-pipeline"),
            "summary": "Reads short text images.",
            "description": "The REST interface of TensorFlow Serving under /v1, and the Open Inference Protocol under /v2.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [
            {"name": "server", "description": "The server itself."},
            {"name": "tensorflow", "description": "TensorFlow Serving. Other methods and paths get status 400, as they do there."},
            {"name": "inference", "description": "Open Inference Protocol, version 2."},
            {"name": "page", "description": "The page that reads pictures in a browser."},
        ],
        "paths": {**_server_paths(), **_page_paths(), **_tensorflow_paths(name, list(labels)), **_inference_paths(name)},
        "components": {"schemas": _schemas(), "responses": _responses()},
    }


async def description(request: Request) -> Response:
    """GET /openapi.json."""
    return json_response(request.app.state.description)


def _server_paths() -> Json:
    ready = _answer("A version is loaded.", _ref("Readiness"))
    not_ready = _answer("No version is loaded yet, or too many connections are open.", {"anyOf": [_ref("Readiness"), _ref("Error")]})
    page = {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": _STRING}}}
    return {
        "/healthz": _get("health", "server", "The process answers.", _answer("It does.", _object(status={"const": "ok"}))),
        "/readyz": _get("readiness", "server", "Whether the server can read.", ready, {"503": not_ready}),
        "/metrics": _get("metrics", "server", "Metrics for Prometheus.", page),
        "/openapi.json": _get("description", "server", "This description.", _answer("OpenAPI 3.1.", {"type": "object"})),
    }


def _page_paths() -> Json:
    missing = {"404": _reference("NoSuchFile")}
    file = _parameter("file", {"type": "string", "pattern": "^[a-z]+[.](css|js|html)$"}, "A file of the page.")
    kinds = {"text/html": {"schema": _STRING}, "text/css": {"schema": _STRING}, "text/javascript": {"schema": _STRING}}
    pictures: Json = {kind: {"schema": {}} for kind in ("image/png", "image/jpeg")}
    counts = {name: {"type": "integer"} for name in ("version", "min_length", "max_length", "width", "height", "max_bytes")}
    about = _answer("What it reads.", _object(name=_STRING, charset=_STRING, **counts))
    html = {"description": "The page.", "content": {"text/html": {"schema": _STRING}}}
    return {
        "/": _get("page", "page", "The page.", html),
        "/page/{file}": _get("page_file", "page", "A file of the page.", {"description": "It.", "content": kinds}, missing, [file]),
        "/about": _get("about", "page", "What the model reads, and the largest body of POST /read.", about),
        "/read": _post("read", "page", "Reads one picture.", pictures, {"200": _answer("The reading.", _ref("Reading"))}, []),
    }


def _tensorflow_paths(name: str, labels: list[str]) -> Json:
    label = _parameter("label", {"type": "string", "pattern": "^[^/:]+$"} | ({"enum": labels} if labels else {}), "From server.labels.")
    version = _parameter("version", {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}, "A version.")
    missing = {"404": _reference("NoSuchModel")}
    refused = {"400": _reference("BadRequest"), **missing}
    paths: Json = {}
    for where, suffix, parameters in (
        ("", "", []),
        ("/versions/{version}", "_version", [version]),
        ("/labels/{label}", "_label", [label]),
    ):
        path, parameters = f"/v1/models/{{name}}{where}", [_name(name), *parameters]
        paths |= {
            path: _get(
                f"status{suffix}", "tensorflow", "The state of versions.", _answer("The states.", _ref("Status")), missing, parameters
            ),
            f"{path}/metadata": _get(
                f"metadata{suffix}", "tensorflow", "The signatures.", _answer("The signatures.", _ref("Metadata")), missing, parameters
            ),
            f"{path}:predict": _post(
                f"predict{suffix}",
                "tensorflow",
                "Reads pictures.",
                {"application/json": {"schema": _ref("PredictRequest")}},
                {"200": _answer("The readings.", _ref("PredictResponse")), **missing},
                parameters,
            ),
        }
        for method in ("classify", "regress"):
            paths[f"{path}:{method}"] = _post(
                f"{method}{suffix}",
                "tensorflow",
                "Needs a signature that these models do not have, so it always gets status 400 or 404.",
                {"application/json": {"schema": {"type": "object"}}},
                refused,
                parameters,
            )
    return paths


def _inference_paths(name: str) -> Json:
    ready = _answer("A version is loaded.", _object(ready=_BOOLEAN))
    not_ready = _answer("No version is loaded yet.", {"anyOf": [_object(ready=_BOOLEAN), _ref("Error")]})
    version = _parameter("version", {"type": "string", "pattern": "^[0-9]{1,19}$"}, "A version.")
    missing = {"404": _reference("NoSuchModel")}
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "The number of bytes of JSON, if binary tensors follow.",
        "schema": {"type": "integer", "minimum": 0},
    }
    binary: Json = {"schema": {}}
    tensors = {
        "description": "The readings. Binary tensors follow the JSON if the request wants them.",
        "headers": {length["name"]: {"description": length["description"], "schema": length["schema"]}},
        "content": {"application/json": {"schema": _ref("InferResponse")}, "application/octet-stream": binary},
    }
    paths = {
        "/v2": _get("server_metadata", "inference", "Name and version of the server.", _answer("Both.", _ref("ServerMetadata"))),
        "/v2/health/live": _get("live", "inference", "The process answers.", _answer("It does.", _object(live=_BOOLEAN))),
        "/v2/health/ready": _get("ready", "inference", "Whether the server can read.", ready, {"503": not_ready}),
    }
    for where, suffix, parameters in (("", "", []), ("/versions/{version}", "_version", [version])):
        path, parameters = f"/v2/models/{{name}}{where}", [_name(name), *parameters]
        model_ready = _answer("It is loaded.", _object(name=_STRING, ready=_BOOLEAN))
        metadata = _answer("The tensors of serving_default.", _ref("ModelMetadata"))
        paths |= {
            path: _get(f"model_metadata{suffix}", "inference", "Inputs and outputs.", metadata, missing, parameters),
            f"{path}/ready": _get(f"model_ready{suffix}", "inference", "Whether it is loaded.", model_ready, missing, parameters),
            f"{path}/infer": _post(
                f"infer{suffix}",
                "inference",
                "Reads pictures.",
                {"application/json": {"schema": _ref("InferRequest")}, "application/octet-stream": binary},
                {"200": tensors, **missing},
                [*parameters, length],
            ),
        }
    return paths


def _schemas() -> Json:
    picture = {"anyOf": [_STRING, _ref("Base64")]}
    values = {"type": "array", "items": picture}
    # Either form names the input, or leaves its name out.
    rows = {"anyOf": [{"type": "array", "minItems": 1, "items": item} for item in (picture, _ref("NamedPicture"))]}
    signature = {
        "type": "string",
        "enum": ["serving_default", "serving_examples", "transform_features", "explain"],
        "default": "serving_default",
        "description": "serving_examples and transform_features take serialized tf.Examples; a model may lack explain.",
    }

    def with_signature(**properties: Json) -> Json:
        return _object(**properties) | {"properties": {"signature_name": signature, **properties}}

    tensor = _object(
        name=_STRING, datatype={"enum": list(_DATATYPES)}, shape={"type": "array", "items": {"type": "integer", "minimum": -1}}
    )
    tensors = {"type": "array", "items": _ref("Tensor")}
    output = tensor | {"properties": {**tensor["properties"], "data": {"type": "array", "items": {}}, "parameters": {"type": "object"}}}
    parameters = {"type": "object", "properties": {"binary_data_output": _BOOLEAN | {"description": "Binary outputs."}}}
    wanted = _object(name={"enum": sorted(_OUTPUTS)}) | {"description": "An output that is wanted."}
    wanted["properties"]["parameters"] = {"type": "object", "properties": {"binary_data": _BOOLEAN}}
    given = _object(name={"const": "image"}, datatype={"const": "BYTES"}, shape={**_counts(), "description": "[number of pictures]."})
    given["properties"]["data"] = _STRINGS | {"description": "The pictures: as base64 if the parameter content_type is base64."}
    given["properties"]["parameters"] = {"type": "object"}
    infer = _object(inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _ref("InferInput")})
    infer["properties"] |= {"id": _STRING, "outputs": {"type": "array", "items": _ref("WantedOutput")}, "parameters": parameters}
    numbers = {"type": "array", "items": {"type": "number"}}
    reading = _object(text=_STRING, confidence=_NUMBER, valid=_BOOLEAN, milliseconds={"type": "number"}, version={"type": "integer"})
    reading["properties"] |= {
        "problem": _STRING | {"description": "Why a picture that is not valid cannot be read."},
        "characters": {"type": "array", "items": _object(character=_STRING, confidence=_NUMBER, attention=numbers)},
        "end": {"type": ["number", "null"], "description": "The probability that no further character follows."},
        "edges": numbers | {"description": "Of the columns that attention is for, from 0 to 1."},
    }
    state = {"enum": ["LOADING", "AVAILABLE", "UNLOADING", "END"]}
    version_status = _object(version=_STRING, state=state, status=_object(error_code=_STRING, error_message=_STRING))
    spec = _object(name=_STRING, signature_name=_STRING, version=_STRING)
    return {
        "Error": _object(error=_STRING | {"description": "What was wrong."}),
        "Readiness": _object(status=_STRING, problems=_STRINGS | {"description": "Versions that could not be loaded."}),
        "Base64": _object(b64={"type": "string", "pattern": _BASE64, "contentEncoding": "base64"}) | {"additionalProperties": False},
        "NamedPicture": _object(image=picture) | {"additionalProperties": False},
        "RowRequest": with_signature(instances=rows) | {"description": "Pictures by rows."},
        "ColumnRequest": with_signature(inputs={"anyOf": [values, _object(image=values)]}) | {"description": "Pictures as a column."},
        "PredictRequest": {"oneOf": [_ref("RowRequest"), _ref("ColumnRequest")]},
        "Prediction": _object(**_OUTPUTS),
        "PredictResponse": {
            "type": "object",
            "description": "predictions for instances, outputs for inputs; of serving_default or serving_examples.",
            "properties": {
                "predictions": {"type": "array", "items": _ref("Prediction")},
                "outputs": _object(**{name: {"type": "array", "items": schema} for name, schema in _OUTPUTS.items()}),
            },
        },
        "Reading": reading,
        "Status": _object(model_version_status={"type": "array", "items": version_status}),
        "Metadata": _object(model_spec=spec, metadata=_object(signature_def=_object(signature_def={"type": "object"}))),
        "ServerMetadata": _object(name=_STRING, version=_STRING, extensions=_STRINGS),
        "Tensor": tensor,
        "ModelMetadata": _object(name=_STRING, versions=_STRINGS, platform=_STRING, inputs=tensors, outputs=tensors),
        "InferInput": given,
        "WantedOutput": wanted,
        "InferRequest": infer,
        "InferOutput": output,
        "InferResponse": _object(model_name=_STRING, model_version=_STRING, outputs={"type": "array", "items": _ref("InferOutput")}),
    }


def _responses() -> Json:
    error = _ref("Error")
    return {
        "BadRequest": _answer("The request is wrong.", error),
        "NoSuchModel": _answer("The model or its version is not loaded.", error),
        "NoSuchFile": _answer("The page has no such file.", error),
        "TooSlow": _answer("The head or the body did not arrive in time.", error),
        "TooLarge": _answer("The body is too long, or it has too many pictures.", error),
        "Compressed": _answer("The body is compressed, or it is not a picture.", error),
        "QueueFull": _answer("Too many pictures wait.", error) | {"headers": _RETRY},
        "Busy": _answer("The server has no version yet, too many connections, or too many bytes of open requests.", error),
        "Failed": _answer("A defect of the server.", error),
    }


def _get(
    operation: str, tag: str, summary: str, answer: Json, others: Mapping[str, Json] | None = None, parameters: Iterable[Json] = ()
) -> Json:
    responses = {"200": answer, "400": _reference("BadRequest"), "503": _reference("Busy"), **(others or {})}
    return {"get": _operation(operation, tag, summary, responses, parameters)}


def _post(operation: str, tag: str, summary: str, content: Json, responses: Mapping[str, Json], parameters: Iterable[Json]) -> Json:
    names = {"400": "BadRequest", "408": "TooSlow", "413": "TooLarge", "415": "Compressed", "429": "QueueFull", "503": "Busy"}
    usual = {status: _reference(name) for status, name in names.items()}
    body = {"required": True, "content": content}
    return {"post": _operation(operation, tag, summary, {**usual, **responses}, parameters) | {"requestBody": body}}


def _operation(operation: str, tag: str, summary: str, responses: Mapping[str, Json], parameters: Iterable[Json]) -> Json:
    answers = dict(sorted({**responses, "500": _reference("Failed")}.items()))
    return {"operationId": operation, "tags": [tag], "summary": summary, "parameters": list(parameters), "responses": answers}


def _answer(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _object(**properties: Json) -> Json:
    """Returns the schema of an object that has all of these properties, and perhaps others."""
    return {"type": "object", "required": list(properties), "properties": properties}


def _counts() -> Json:
    return {"type": "array", "minItems": 1, "maxItems": 8, "items": {"type": "integer", "minimum": 0}}


def _name(name: str) -> Json:
    return _parameter("name", {"type": "string", "enum": [name]}, "The model.")


def _parameter(name: str, schema: Json, text: str) -> Json:
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _reference(name: str) -> Json:
    return {"$ref": f"#/components/responses/{name}"}
