"""Tells with a perceptual hash whether two pictures are the same picture, encoded again or resized.

The hash is imagehash's `phash` with 16 x 16 bits. The picture is resized to 64x64 in grey. Each bit says whether one of the lowest
frequencies of its cosine transform is above their median (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html).
The usual 8 x 8 bits cannot tell captchas apart, because captchas share a background and a font: pictures with different labels have the
same hash. `python -m benchmarks.likeness` measures both; docs/benchmarks.md has the results that MAX_DISTANCE is based on.
"""

import struct
from typing import Final

import imagehash
import numpy as np
from PIL import Image

MAX_DISTANCE: Final = 14  # bits, of 256
_SIDE: Final = 16
_LEAST_SET: Final = 120  # bits: half of all bits are set, unless many frequencies are missing and therefore equal
# The bits of a band come from all rows and columns of the transform, because one row is often similar in all pictures of one kind.
_ORDER: Final = np.array([_SIDE * row + (row + band) % _SIDE for band in range(_SIDE) for row in range(_SIDE)])


def look_of(picture: Image.Image) -> bytes | None:
    """Returns the perceptual hash, the *look*, of a picture as the model sees it, of mode L or RGB: 32 bytes.

    Returns None if the picture has too little detail to tell it from others, such as one colour or plain stripes.
    """
    bits = imagehash.phash(picture, hash_size=_SIDE).hash.ravel()[_ORDER]
    return np.packbits(bits).tobytes() if bits.sum() >= _LEAST_SET else None


def distance(one: bytes, other: bytes) -> int:
    """Returns the number of bits in which two looks differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def bands(look: bytes) -> list[int]:
    """Returns the 16 bands of a look. Each band is a number that includes its position, so that different bands never have equal numbers.

    Looks that differ in fewer bits than there are bands share at least one band. This is true of all looks within MAX_DISTANCE. So similar
    looks can be found by their bands, without comparing every look with every other.
    """
    return [band << 16 | value for band, value in enumerate(struct.unpack(f">{_SIDE}H", look))]
