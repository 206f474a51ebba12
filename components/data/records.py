"""A record in the canonical layout: a tf.Example with `image`, `label`, `source` and `params` (components/base/features.py).

Nothing here imports TensorFlow; functions that take an example take tf.train.Example as well as components.data.example_proto.Example.
"""

import io
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from components.base import features
from components.data.example_proto import Example, bytes_example

# Run lengths alone, where deflate would look for repetitions of any kind: 60 % of the time that Pillow's default takes for synthetic
# pictures, and 3 % more bytes.
_PNG_STRATEGY: Final = zlib.Z_RLE
# Sorted and without spaces: the same parameters are the same bytes.
_JSON: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class RecordError(ValueError):
    """A record that is not in the layout. `reason` is the name under which such records are counted."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def canonical_example(image: bytes, label: str, source: str, params: Mapping[str, Any], kind: Any = Example) -> Any:
    """Returns the canonical example of an encoded picture and its label, as an example of the class `kind`."""
    values = {features.IMAGE: image, features.LABEL: label.encode(), features.SOURCE: source.encode()}
    return bytes_example(values | {features.PARAMS: _JSON.encode(params).encode()}, kind)


def encode_png(image: Image.Image) -> bytes:
    """Returns the picture as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_type=_PNG_STRATEGY)
    return buffer.getvalue()
