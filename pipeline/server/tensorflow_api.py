"""TensorFlow Serving's REST interface: status, metadata and predict, as its documentation and its code define them.

Source: "RESTful API" of TensorFlow Serving's guide; error messages and status codes follow json_tensor.cc, http_rest_api_handler.cc and
get_model_status_impl.cc of its repository. Signatures of this project's models have one input, a batch of strings, so nothing else is read.
"""

import base64
from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from components.serving.loaded import Signature, Tensor
from pipeline.server.messages import RequestError, decode_base64, json_response, parse_object, shown
from pipeline.server.reading import Server, server_of
from pipeline.server.versions import NoSuchLabel, NoSuchVersion, State, Version

_DEFAULT: Final = "serving_default"
_BYTES_SUFFIX: Final = "_bytes"  # of outputs that are not text
_WHERE: Final = ("", "/versions/{version:segment}", "/labels/{label:segment}")
# What TensorFlow Serving's status says of a version that could not be loaded.
_FAILED: Final = "UNKNOWN"


async def predict(request: Request) -> Response:
    """POST /v1/models/NAME[/versions/V|/labels/L]:predict."""
    server = server_of(request)
    content = parse_object(await request.body())
    version = _version(server, request)  # after the body, which may take long: the version could be unloaded meanwhile
    name = _signature_name(content)
    signature = version.model.signatures.get(name)
    if signature is None:
        raise RequestError(400, f'Serving signature name: "{name}" not found in signature def')
    values, is_row = request_values(content, signature)
    outputs: dict[str, Any] = dict(await server.read(version, name, values))
    for output in signature.outputs:
        if output.dtype == "DT_STRING":
            encode = _base64 if output.name.endswith(_BYTES_SUFFIX) else _text
            outputs[output.name] = [encode(value) for value in outputs[output.name]]
    if len(outputs) == 1:
        (only,) = outputs.values()
        return json_response({"predictions" if is_row else "outputs": only})
    if not is_row:
        return json_response({"outputs": outputs})
    rows = zip(*outputs.values(), strict=True)
    return json_response({"predictions": [dict(zip(outputs, row, strict=True)) for row in rows]})


async def unsupported(request: Request) -> Response:
    """POST …:classify and …:regress, which need signatures that these models do not have."""
    server = server_of(request)
    content = parse_object(await request.body())
    version = _version(server, request)
    method = "tensorflow/serving/" + request.url.path.rsplit(":", 1)[1]
    found = version.model.signatures.get(_signature_name(content))
    expected = found.method if found else "a signature of that name"
    raise RequestError(400, f"Expected {method} signature method_name, but the model has {expected}; use :predict")


async def status(request: Request) -> Response:
    """GET /v1/models/NAME[/versions/V|/labels/L]: the state of one version, or of all."""
    server = server_of(request)
    name = _checked_name(server, request)
    statuses = server.versions.statuses
    if "label" in request.path_params:
        number: int | None = _version(server, request).number
    else:
        number = _number(request)
    if number is not None and number not in statuses:
        raise RequestError(404, f"Could not find version {number} of model {name}")
    if not statuses:
        raise RequestError(404, f"Could not find any versions of model {name}")
    chosen = sorted(statuses) if number is None else [number]
    return json_response({"model_version_status": [_status(server, number) for number in chosen]})


async def metadata(request: Request) -> Response:
    """GET /v1/models/NAME[/versions/V|/labels/L]/metadata: the signatures."""
    server = server_of(request)
    version = _version(server, request)
    signatures = {name: _definition(signature) for name, signature in version.model.signatures.items()}
    return json_response(
        {
            "model_spec": {"name": server.name, "signature_name": "", "version": str(version.number)},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


def malformed(request: Request) -> RequestError:
    """Returns TensorFlow Serving's answer to a path or a method that is not part of the interface."""
    if request.method == "GET" and request.url.path == "/v1/models":
        return RequestError(400, "Missing model name in request.")
    return RequestError(400, f"Malformed request: {request.method} {request.url.path}")


def request_values(content: dict[str, Any], signature: Signature) -> tuple[list[bytes], bool]:
    """Returns the strings of a request, and whether they come as rows ("instances") and not as a column ("inputs").

    Raises:
      RequestError: 400, with TensorFlow Serving's message.
    """
    (given,) = signature.inputs
    if "instances" in content:
        if "inputs" in content:
            raise RequestError(
                400, f"JSON Value: {shown(content)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
            )
        instances = content["instances"]
        if not isinstance(instances, list):
            raise RequestError(400, f"JSON Value: {shown(content)} Expecting 'instances' to be an list/array")
        if not instances:
            raise RequestError(400, f"JSON Value: {shown(content)} No values in 'instances' array")
        return _rows(instances, given.name), True
    if "inputs" in content:
        column = content["inputs"]
        if isinstance(column, dict) and not _is_base64(column):
            if given.name not in column:
                raise RequestError(400, f"Missing named input: {given.name} in 'inputs' object.")
            column = column[given.name]
        if not isinstance(column, list):
            raise RequestError(400, f"The input {given.name} must be a list of strings, one for each picture")
        return [_string(value) for value in column], False
    raise RequestError(400, "Missing 'inputs' or 'instances' key")


def _rows(instances: list[Any], name: str) -> list[bytes]:
    are_objects = isinstance(instances[0], dict) and not _is_base64(instances[0])
    values = []
    for number, instance in enumerate(instances):
        is_object = isinstance(instance, dict) and not _is_base64(instance)
        if is_object != are_objects:
            expected, got = ("object", "list") if are_objects else ("value/list", "object")
            raise RequestError(400, f"Expecting {expected} but got {got} at item {number} of input list")
        if are_objects and list(instance) != [name]:
            raise RequestError(
                400,
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(instance)} keys must be equal to: {name}",
            )
        try:
            values.append(_string(instance[name] if are_objects else instance))
        except RequestError as error:
            key = f" key: {name}" if are_objects else ""
            raise RequestError(400, f"Failed to process element: {number}{key} of 'instances' list. Error: {error.message}") from None
    return values


def _signature_name(content: dict[str, Any]) -> str:
    name = content.get("signature_name", _DEFAULT)
    if not isinstance(name, str):
        raise RequestError(400, f"JSON Value: {shown(content)} not formatted correctly. 'signature_name' key must be a string value.")
    return name or _DEFAULT


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, list):
        raise RequestError(400, "Encountered list at unexpected level: 1 expected < 1")
    if not isinstance(value, dict):
        raise RequestError(400, f"JSON Value: {shown(value)} Type: {_json_type(value)} is not of expected type: string")
    if not _is_base64(value):
        raise RequestError(400, f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    return decode_base64(value["b64"])


def _json_type(value: Any) -> str:
    return {bool: str(value), type(None): "Null"}.get(type(value), "Number")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _base64(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _checked_name(server: Server, request: Request) -> str:
    name = str(request.path_params["name"])
    if name != server.name:
        raise RequestError(404, f"Could not find any versions of model {name}")
    return name


def _number(request: Request) -> int | None:
    text = request.path_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise malformed(request)
    if len(text) > 19 or int(text) >= 2**63:
        raise RequestError(400, f"Failed to convert version: {text} to numeric.")
    return int(text)


def _version(server: Server, request: Request) -> Version:
    name, number = str(request.path_params["name"]), _number(request)
    if name != server.name:
        raise RequestError(404, f"Servable not found for request: Latest({name})")
    try:
        return server.versions.find(number, request.path_params.get("label"))
    except NoSuchVersion as error:
        raise RequestError(400 if isinstance(error, NoSuchLabel) else 404, str(error)) from None


def _status(server: Server, number: int) -> dict[str, Any]:
    found = server.versions.statuses[number]
    failed = found.state is State.END and found.problem
    return {
        "version": str(number),
        "state": found.state.value,
        "status": {"error_code": _FAILED if failed else "OK", "error_message": found.problem},
    }


def _definition(signature: Signature) -> dict[str, Any]:
    return {"inputs": _infos(signature.inputs), "outputs": _infos(signature.outputs), "method_name": signature.method, "defaults": {}}


def _infos(tensors: Sequence[Tensor]) -> dict[str, Any]:
    return {
        tensor.name: {
            "dtype": tensor.dtype,
            "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in tensor.shape], "unknown_rank": False},
            "name": tensor.tensor,
        }
        for tensor in tensors
    }


ROUTES: Final = [
    *(Route(f"/v1/models/{{name:segment}}{where}:predict", predict, methods=["POST"]) for where in _WHERE),
    *(
        Route(f"/v1/models/{{name:segment}}{where}:{method}", unsupported, methods=["POST"])
        for where in _WHERE
        for method in ("classify", "regress")
    ),
    *(Route(f"/v1/models/{{name:segment}}{where}/metadata", metadata) for where in _WHERE),
    *(Route(f"/v1/models/{{name:segment}}{where}", status) for where in _WHERE),
]
