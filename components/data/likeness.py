"""Whether two pictures are one that was encoded again or resized: a perceptual hash tells.

The hash is imagehash's `phash` of 16 x 16 bits: of the picture in grey at 64x64, which of the lowest frequencies of its cosine transform
are above their median (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html). Its usual 8 x 8 bits cannot tell
captchas apart, which share a background and a font: pictures with different labels have the same hash. `python -m benchmarks.likeness`
measures both; docs/benchmarks.md has the figures that MAX_DISTANCE comes from.
"""

import struct
from typing import Final

import imagehash
import numpy as np
from PIL import Image

MAX_DISTANCE: Final = 14  # bits, of 256
_SIDE: Final = 16
_LEAST_SET: Final = 120  # bits: half of all are above the median, but where many frequencies are missing and so equal
# The bits of a band come from all rows and columns of the transform: those of one row are often alike in all pictures of one kind.
_ORDER: Final = np.array([_SIDE * row + (row + band) % _SIDE for band in range(_SIDE) for row in range(_SIDE)])


def look_of(picture: Image.Image) -> bytes | None:
    """Returns the perceptual hash of a picture as the model sees it, of mode L or RGB: 32 bytes.

    None where the picture has too little on it to tell it from others, such as one colour or plain stripes.
    """
    bits = imagehash.phash(picture, hash_size=_SIDE).hash.ravel()[_ORDER]
    return np.packbits(bits).tobytes() if bits.sum() >= _LEAST_SET else None


def distance(one: bytes, other: bytes) -> int:
    """Returns the number of bits in which two looks differ."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def bands(look: bytes) -> list[int]:
    """Returns the 16 bands of a look, each as a number that no other band can have.

    Looks that differ in fewer bits than there are bands, and so all within MAX_DISTANCE, have a band in common: what is alike can be looked
    up, and not every look has to be compared with every other.
    """
    return [band << 16 | value for band, value in enumerate(struct.unpack(f">{_SIDE}H", look))]
