"""Assigns a picture to a split by the pixels that the model sees, so that the same picture is always in the same split.

This is rule 2, which the manifest of a span records as `split_rule`:

- The key of a picture is a hash of its size and its pixels in RGB, as `components.data.pictures.visible_picture` returns them: transparent
  pixels show `data.background`, 16-bit pixels are reduced to their high byte. The encoding of the picture does not matter.
- The key is a point on the line from 0 to 1. The test split is at the start of the line, eval at the end, train between them.

So the test split depends only on its own share, and eval only on its own: with a smaller share a split keeps some of its pictures and gets
no new pictures.

Rule 1 applies to spans whose manifest has no `split_rule`. It ignored transparency, clipped 16-bit pixels, and took the hash modulo the sum
of the shares, so that a change of the shares moved nearly every picture. A span keeps the splits that it was written with.
"""

import bisect
import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from PIL import Image

from components.base.features import SPLITS

SPLIT_RULE: Final = 2
KEY_BYTES: Final = 16
_POINT_BYTES: Final = 8
_TRAIN, _EVAL, _TEST = SPLITS


def split_key(picture: Image.Image) -> bytes:
    """Returns the key of a picture as the model sees it, of mode L or RGB: KEY_BYTES bytes for `split_of`."""
    return bytes_key(b"%dx%d" % picture.size + picture.convert("RGB").tobytes())


def bytes_key(data: bytes) -> bytes:
    """Returns the key of a record that has no picture: KEY_BYTES bytes for `split_of`."""
    return hashlib.sha256(data).digest()[:KEY_BYTES]


def split_of(key: bytes, weights: Mapping[str, int]) -> str:
    """Returns the split of a picture.

    Args:
      key: from `split_key`.
      weights: the relative size of each of `features.SPLITS`.
    """
    whole, total = 256**_POINT_BYTES, sum(weights[split] for split in SPLITS)
    point = int.from_bytes(key[:_POINT_BYTES], "big")
    # Integer arithmetic is exact: equal proportions give equal splits, whatever the scale of the weights.
    if point * total < weights[_TEST] * whole:
        return _TEST
    return _EVAL if (whole - point) * total <= weights[_EVAL] * whole else _TRAIN


def merge_keys(parts: Iterable[bytes]) -> bytes:
    """Returns the distinct keys for `holds`, sorted and concatenated. A set would take six times the memory.

    Args:
      parts: concatenated keys, any number in each part.
    """
    return b"".join(sorted({_key(part, index) for part in parts for index in range(len(part) // KEY_BYTES)}))


def holds(merged: bytes, key: bytes) -> bool:
    """Returns whether `merged`, from `merge_keys`, contains a key."""
    index = bisect.bisect_left(range(len(merged) // KEY_BYTES), key, key=lambda at: _key(merged, at))
    return _key(merged, index) == key


def _key(keys: bytes, index: int) -> bytes:
    return keys[index * KEY_BYTES : (index + 1) * KEY_BYTES]
