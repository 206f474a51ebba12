"""Manifests of Kubernetes, and the errors that a check of them must find."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = ("1.29", "1.37")
# Mappings with keys of the user.
FREE = {"annotations", "data", "flinkConfiguration", "labels", "limits", "matchLabels", "parameters", "requests", "selector"}

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def plant(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields places and errors to put there: an unknown field in each mapping, a value of the wrong type in each field."""
    if isinstance(node, dict):
        if not path or path[-1] not in FREE:
            yield (*path, "planted"), "error"
        for key, value in node.items():
            yield from plant(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from plant(value, (*path, index))
    elif path not in {("apiVersion",), ("kind",)}:
        yield path, [{"planted": "error"}]


def put(document: Document, path: tuple[Any, ...], value: Any) -> Document:
    document = copy.deepcopy(document)
    node: Any = document
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return document
