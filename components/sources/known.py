"""What the spans hold already, by content: so that an inbox can be imported again and again."""

import hashlib
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from components.example_proto import Example
from components.features import IMAGE, LABEL
from components.sources.spans import Span
from components.tfrecords import Damage, Record, read_records


def content_digest(label: bytes, picture: bytes) -> bytes:
    """Returns 16 bytes that name a label (in UTF-8) and an encoded picture: two pictures with them are the same."""
    return hashlib.sha256(len(label).to_bytes(4, "big") + label + picture).digest()[:16]


def contents(spans: Iterable[Span]) -> set[bytes]:
    """Returns the digests of all that spans hold. In the book's layout the encoded picture is not kept: those spans add nothing."""
    return {
        content_digest(*(example.features.feature[name].bytes_list.value[0] for name in (LABEL, IMAGE)))
        for span in spans
        if span.manifest.layout == "canonical"
        for file in span.manifest.files
        for item in read_records(span.path / file.path)
        if (example := _example(item)) is not None
    }


def _example(item: Record | Damage) -> Example | None:
    """The example, if it is whole and has both."""
    if isinstance(item, Damage):
        return None
    try:
        example = Example.FromString(item.data)
    except DecodeError:
        return None
    return example if all(example.features.feature[name].bytes_list.value for name in (LABEL, IMAGE)) else None
