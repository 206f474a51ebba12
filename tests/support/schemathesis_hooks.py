"""What a description in OpenAPI cannot say, for Schemathesis: see tests/server/test_openapi.py."""

from typing import Any

import schemathesis
from schemathesis import Case, GenerationMode, HookContext, SerializationContext

_LENGTH = "Inference-Header-Content-Length"


@schemathesis.serializer("image/png", "image/jpeg")
def as_picture(context: SerializationContext, value: Any) -> bytes:
    """Sends any bytes: a picture that is none gets an answer, too."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def filter_case(context: HookContext, case: Case) -> bool:
    """Drops binary tensors, whose sizes would have to fit the bytes, and signatures whose strings must be tf.Examples."""
    body: Any = case.body
    is_example = isinstance(body, dict) and body.get("signature_name") in ("serving_examples", "transform_features", "explain")
    return not (is_example or case.media_type == "application/octet-stream" or _LENGTH in (case.headers or {}))


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Makes the shape of a good tensor fit its data."""
    body: Any = case.body
    if case.meta and case.meta.generation.mode is GenerationMode.POSITIVE and isinstance(body, dict):
        for tensor in body.get("inputs", []) if case.operation.path.endswith("/infer") else []:
            tensor["shape"] = [len(tensor.setdefault("data", []))]
            tensor.pop("parameters", None)
