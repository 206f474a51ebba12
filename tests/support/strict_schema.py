"""Makes published API schemas strict: unknown fields are refused, because a server would drop them silently."""

from typing import Any


def closed(node: Any) -> Any:
    """Returns a JSON schema that allows only the described fields, unless it says that there may be others.

    An int64 may be a number or text, as in the JSON of protocol buffers.
    """
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: closed(value) for key, value in node.items()}
    if node.get("type") == "string" and node.get("format") == "int64":
        node["type"] = ["string", "integer"]
    properties = node.get("properties")
    is_open = "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(properties, dict) and "@type" not in properties and not is_open:
        node["additionalProperties"] = False
    return node
