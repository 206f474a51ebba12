"""Encoded pictures, and pictures that every check refuses."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RNG = np.random.default_rng(1)
RGB = RNG.integers(0, 256, (20, 40, 3), np.uint8)


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Returns the bytes of a picture file of format `form`."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FRAMES = [Image.new("RGB", (40, 20), (value, 0, 0)) for value in (0, 99)]


BROKEN_CHECKSUM = bytearray(encode(Image.fromarray(RGB)))
BROKEN_CHECKSUM[-13] ^= 1


REFUSED = {
    "nothing": ("image_empty", b""),
    "text": ("image_undecodable", b"path,label\na.png,1234\n"),
    "svg": ("image_undecodable", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    "eps": ("image_undecodable", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 20\nshowpage\n"),
    "png header alone": ("image_undecodable", b"\x89PNG\r\n\x1a\n"),
    "png cut": ("image_undecodable", encode(Image.fromarray(RGB))[:-600]),
    "png checksum": ("image_undecodable", bytes(BROKEN_CHECKSUM)),
    "png without pixels": ("image_undecodable", png(40, 20, 8, 2, b"")),
    "jpeg cut": ("image_undecodable", encode(Image.fromarray(RGB), "JPEG")[:-300]),
    "gif cut": ("image_undecodable", encode(Image.fromarray(RGB), "GIF")[:-500]),
    "large": ("image_too_large", encode(Image.new("1", (101, 100)))),
    "bomb": ("image_too_large", png(20_000, 20_000, 1, 0, b"")),
    "near bomb": ("image_too_large", png(11_000, 11_000, 1, 0, b"")),
    "gif animated": ("image_animated", encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])),
    "png animated": ("image_animated", encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:])),
    "webp animated": ("image_animated", encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])),
    "tiff pages": ("image_animated", encode(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:])),
    "float": ("image_mode", encode(Image.new("F", (40, 20)), "TIFF")),
    "32 bits": ("image_mode", encode(Image.new("I", (40, 20)), "TIFF")),
    "lab": ("image_mode", encode(Image.new("LAB", (40, 20)), "TIFF")),
    "16 bits, transparent": ("image_mode", encode(Image.fromarray(np.zeros((20, 40), np.uint16)), transparency=0)),
}
