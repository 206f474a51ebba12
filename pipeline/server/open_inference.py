"""The Open Inference Protocol, version 2, over HTTP: health, metadata and infer, with the extension for binary tensors.

Source: the protocol's "open_inference_rest" specification, and the "Binary Tensor Data Extension" of Triton Inference Server, which
KServe's and Triton's clients use for inputs that are not text. The signature is always `serving_default`.
"""

import importlib.metadata
import math
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from components.serving.loaded import Tensor
from pipeline.server.messages import RequestError, decode_base64, json_response, parse_object
from pipeline.server.reading import Server, server_of
from pipeline.server.versions import NoSuchVersion, Version

SIGNATURE: Final = "serving_default"
_JSON_LENGTH: Final = "Inference-Header-Content-Length"
_BINARY_SIZE: Final = "binary_data_size"
_MOST_DIMENSIONS: Final = 8
_WHERE: Final = ("", "/versions/{version:segment}")
_DATATYPES: Final = {"DT_STRING": "BYTES", "DT_FLOAT": "FP32", "DT_BOOL": "BOOL", "DT_INT64": "INT64"}


async def server_metadata(request: Request) -> Response:
    """GET /v2."""
    return json_response(
        {"name": "captcha-pipeline", "version": importlib.metadata.version("captcha-pipeline"), "extensions": ["binary_tensor_data"]}
    )


async def live(request: Request) -> Response:
    """GET /v2/health/live."""
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """GET /v2/health/ready: status 503 until a version is loaded."""
    is_ready = server_of(request).versions.current is not None
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


async def model_ready(request: Request) -> Response:
    """GET /v2/models/NAME[/versions/V]/ready."""
    server = server_of(request)
    return json_response({"name": server.name, "ready": _version(server, request) is not None})


async def model_metadata(request: Request) -> Response:
    """GET /v2/models/NAME[/versions/V]."""
    server = server_of(request)
    signature = _version(server, request).model.signatures[SIGNATURE]
    loaded = [str(number) for number in server.versions.available]
    tensors = {"inputs": _described(signature.inputs), "outputs": _described(signature.outputs)}
    return json_response({"name": server.name, "versions": loaded, "platform": "tensorflow_savedmodel", **tensors})


async def infer(request: Request) -> Response:
    """POST /v2/models/NAME[/versions/V]/infer."""
    server = server_of(request)
    body = await request.body()
    version = _version(server, request)  # after the body, which may take long: the version could be unloaded meanwhile
    length = _json_length(request, len(body))
    content = parse_object(body[:length])
    signature = version.model.signatures[SIGNATURE]
    values = _input(content, signature.inputs[0].name, memoryview(body)[length:])
    wanted = _wanted(content, signature.outputs)
    about = {"id": content["id"]} if "id" in content else {}
    if not all(isinstance(text, str) for text in about.values()):
        raise RequestError(400, "'id' must be a string")
    answer = await server.read(version, SIGNATURE, values)
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for tensor, is_binary in wanted:
        data = answer[tensor.name]
        output: dict[str, Any] = {"name": tensor.name, "datatype": _DATATYPES[tensor.dtype], "shape": list(data.shape)}
        if is_binary:
            binary.append(_to_binary(data))
            output["parameters"] = {_BINARY_SIZE: len(binary[-1])}
        else:
            output["data"] = [text.decode("utf-8", "replace") for text in data] if tensor.dtype == "DT_STRING" else data.ravel()
        outputs.append(output)
    reply = about | {"model_name": server.name, "model_version": str(version.number), "outputs": outputs}
    if not binary:
        return json_response(reply)
    head = orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(b"".join([head, *binary]), 200, {_JSON_LENGTH: str(len(head))}, "application/octet-stream")


def _json_length(request: Request, size: int) -> int:
    """Returns how many bytes at the start of the body are JSON; binary tensors follow."""
    text = request.headers.get(_JSON_LENGTH)
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= size):
        raise RequestError(400, f"{_JSON_LENGTH} is {text!r}; it must be the number of bytes of JSON, at most the body's {size}")
    return int(text)


def _input(content: dict[str, Any], name: str, binary: memoryview) -> list[bytes]:
    inputs = content.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict) and inputs[0].get("name") == name):
        raise RequestError(400, f"'inputs' must be a list of one tensor, with the name '{name}'")
    (given,) = inputs
    if given.get("datatype") != "BYTES":
        raise RequestError(400, f"The datatype of '{name}' must be BYTES")
    shape = given.get("shape")
    if not (isinstance(shape, list) and 1 <= len(shape) <= _MOST_DIMENSIONS and all(type(size) is int and size >= 0 for size in shape)):
        raise RequestError(400, f"The shape of '{name}' must be a list of at most {_MOST_DIMENSIONS} numbers, such as [1]")
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise RequestError(400, f"'parameters' of '{name}' must be an object")
    if _BINARY_SIZE in parameters:
        if parameters[_BINARY_SIZE] != len(binary):
            raise RequestError(400, f"{_BINARY_SIZE} is {parameters[_BINARY_SIZE]}, but {len(binary)} bytes follow the JSON")
        values = _from_binary(binary, name)
    else:
        values = _from_json(given.get("data"), name, parameters.get("content_type") == "base64")
    if len(values) != math.prod(shape) or math.prod(shape) != max(shape):
        raise RequestError(400, f"'{name}' has {len(values)} pictures, but the shape {shape}; it must be [{len(values)}]")
    return values


def _from_json(data: Any, name: str, is_base64: bool) -> list[bytes]:
    flat = [value for part in data for value in (part if isinstance(part, list) else [part])] if isinstance(data, list) else None
    if flat is None or not all(isinstance(value, str) for value in flat):
        raise RequestError(400, f"'data' of '{name}' must be a list of strings, or the tensor must be binary")
    return [decode_base64(value) if is_base64 else value.encode("utf-8", "surrogatepass") for value in flat]


def _from_binary(data: memoryview, name: str) -> list[bytes]:
    """Returns the elements of a BYTES tensor: each is its length, 32 bits with the lowest byte first, and its bytes."""
    values, position = [], 0
    while position < len(data):
        if position + 4 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, position)
        position += 4 + length
        values.append(bytes(data[position - length : position]))
    if position != len(data):
        raise RequestError(400, f"The binary data of '{name}' end within an element")
    return values


def _to_binary(data: np.ndarray) -> bytes:
    if data.dtype == object:
        return b"".join(part for value in data.ravel() for part in (struct.pack("<I", len(value)), value))
    return data.tobytes()


def _wanted(content: dict[str, Any], outputs: Sequence[Tensor]) -> list[tuple[Tensor, bool]]:
    """Returns the outputs that a request wants, all if it names none, and whether it wants them as binary data."""
    default = _flag(content, "binary_data_output", False)
    named = content.get("outputs", [])
    if named == []:
        return [(output, default) for output in outputs]
    by_name = {output.name: output for output in outputs}
    wanted: dict[str, tuple[Tensor, bool]] = {}  # each once, or a small request could have an answer of gigabytes
    for output in named if isinstance(named, list) else [None]:
        if not isinstance(output, dict) or not isinstance(output.get("name"), str) or output["name"] not in by_name:
            raise RequestError(400, f"'outputs' must be a list of objects with a name of {', '.join(by_name)}")
        wanted[output["name"]] = (by_name[output["name"]], _flag(output, "binary_data", default))
    return list(wanted.values())


def _flag(content: dict[str, Any], name: str, default: bool) -> bool:
    parameters = content.get("parameters", {})
    flag = parameters.get(name, default) if isinstance(parameters, dict) else None
    if not isinstance(flag, bool):
        raise RequestError(400, f"'parameters' must be an object, and its '{name}' true or false")
    return flag


def _version(server: Server, request: Request) -> Version:
    name, text = request.path_params["name"], request.path_params.get("version")
    if name != server.name:
        raise RequestError(404, f"Model {name} does not exist; this server has {server.name}")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 20):
        raise RequestError(404, f"Version {text} of {name} does not exist")
    try:
        return server.versions.find(None if text is None else int(text))
    except NoSuchVersion as error:
        raise RequestError(404 if text else 503, str(error)) from None


def _described(tensors: Sequence[Tensor]) -> list[dict[str, Any]]:
    return [{"name": tensor.name, "datatype": _DATATYPES[tensor.dtype], "shape": list(tensor.shape)} for tensor in tensors]


ROUTES: Final = [
    Route("/v2", server_metadata),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    *(Route(f"/v2/models/{{name:segment}}{where}/ready", model_ready) for where in _WHERE),
    *(Route(f"/v2/models/{{name:segment}}{where}/infer", infer, methods=["POST"]) for where in _WHERE),
    *(Route(f"/v2/models/{{name:segment}}{where}", model_metadata) for where in _WHERE),
]
