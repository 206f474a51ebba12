"""Requests and responses as JSON, and the errors of requests."""

import binascii
import math
from typing import Any, Final

import orjson
from starlette.responses import Response

_JSON: Final = "application/json"


class RequestError(Exception):
    """The request cannot be answered.

    Attributes:
      status: the HTTP status code.
      message: for the client.
      retry_after: seconds after which the client can try again; None if that would not help.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after

    def response(self) -> Response:
        """Returns the answer, with the body of TensorFlow Serving and of the Open Inference Protocol: {"error": message}."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return json_response({"error": self.message}, self.status, headers)


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns content as JSON. numpy arrays become lists; float32 numbers are written as short as they can be read back."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, headers, _JSON)


def parse_object(body: bytes) -> dict[str, Any]:
    """Returns the JSON object in a body.

    Raises:
      RequestError: it is not a JSON object (400). The messages are those of TensorFlow Serving.
    """
    if not body:
        raise RequestError(400, "JSON Parse error: The document is empty")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    if not isinstance(content, dict):
        raise RequestError(400, f"JSON Value: {shown(content)} Is not object")
    return content


def shown(content: Any) -> str:
    """Returns the beginning of a JSON value, for a message."""
    try:
        return orjson.dumps(content)[:256].decode("utf-8", "replace")
    except orjson.JSONEncodeError:  # it writes fewer levels than it reads
        return "(deeply nested)"


def decode_base64(text: str) -> bytes:
    """Returns the bytes that base64 text stands for. It may have white space, and the padding at its end may be missing.

    Raises:
      RequestError: it is not base64 (400).
    """
    for written in (text, "".join(text.split())):
        digits = written.rstrip("=")
        padding = -len(digits) % 4
        try:
            data = binascii.a2b_base64(digits + "=" * padding)
        except ValueError:
            continue
        # This decoder skips what is not base64, so too few bytes show it. Python's strict one is slow: it is a tenth of a request.
        if padding < 3 and len(data) == len(digits) * 3 // 4 and len(written) - len(digits) <= padding:
            return data
    raise RequestError(400, "Unable to base64 decode")
