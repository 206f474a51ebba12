"""Pictures of kinds that are rare: PNGs that Pillow does not write, files that every check refuses, and complete files that look odd."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.support.encoded import chunk, encode, png

TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


def exif(value: int) -> Image.Exif:
    data = Image.Exif()
    data[271] = "a camera"  # a tag before the orientation
    data[274] = value
    return data


@st.composite
def pictures(draw: st.DrawFn) -> np.ndarray:
    """Draws pixels, uint8 [H, W, 4], smooth enough for a JPEG. Many of them have the input size of the model."""
    width, height = draw(st.one_of(st.just((12, 8)), st.just((8, 12)), st.tuples(st.integers(1, 20), st.integers(1, 20))))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 4), np.uint8), "RGBA")
    return np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST))


def handmade(pixels: np.ndarray, depth: int, colour_type: int, key: bytes | None, turn: int | None) -> bytes:
    """Returns a PNG of a kind that Pillow does not write; `pixels`, [H, W] or [H, W, channels], are stored unchanged."""
    height, width = pixels.shape[:2]
    if depth == 16:
        rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(pixels.astype(np.uint8).reshape(height, -1, 1), axis=2)[..., -depth:]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    data = png(width, height, depth, colour_type, b"".join(b"\0" + row.tobytes() for row in rows))
    extra = chunk(b"tRNS", key) if key else b""
    if turn is not None:
        extra += chunk(b"eXIf", exif(turn).tobytes(8).removeprefix(b"Exif\0\0"))
    return data[:33] + extra + data[33:]


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    colour, alpha = colour.astype(int), alpha.astype(int)[..., np.newaxis]
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


@st.composite
def odd_pngs(draw: st.DrawFn) -> tuple[bytes, np.ndarray]:
    """Draws a PNG of a kind that Pillow does not write, and its visible pixels."""
    pixels, turn = draw(pictures()), draw(st.one_of(st.none(), st.integers(0, 9)))
    grey, turned = pixels[..., 0], TURNED.get(turn or 1, TURNED[1])
    if draw(st.booleans()):
        depth = draw(st.sampled_from([1, 2, 4, 8]))
        values = grey >> (8 - depth)
        key = draw(st.one_of(st.none(), st.sampled_from(sorted(set(values.ravel().tolist())))))
        shown = np.repeat((values * (255 // (2**depth - 1)))[..., np.newaxis], 3, axis=2)
        shown = np.where((values == key)[..., np.newaxis], 255, shown).astype(np.uint8)
        return handmade(values, depth, 0, None if key is None else struct.pack(">H", key), turn), turned(shown)
    words = pixels.astype(np.uint16) * 256 + 255 - pixels
    colour_type = draw(st.sampled_from([0, 2, 4, 6]))
    channels = {0: [0], 2: [0, 1, 2], 4: [0, 3], 6: [0, 1, 2, 3]}[colour_type]
    colour = np.repeat(grey[..., np.newaxis], 3, axis=2) if colour_type in (0, 4) else pixels[..., :3]
    shown = over_white(colour, pixels[..., 3]) if colour_type in (4, 6) else colour
    return handmade(words[..., channels], 16, colour_type, None, turn), turned(shown)


@st.composite
def saved(draw: st.DrawFn) -> tuple[bytes, np.ndarray]:
    """Draws a file that Pillow writes, and the pixels that Pillow shows."""
    image = Image.fromarray(draw(pictures()), "RGBA")
    other = Image.fromarray(draw(pictures()), "RGBA").convert("RGB")
    turn = draw(st.one_of(st.none(), st.integers(0, 9)))
    options: dict[str, Any] = {} if turn is None else {"exif": exif(turn)}
    form = draw(st.sampled_from(["PNG", "JPEG", "MPO"]))
    if form == "PNG":
        mode = draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]))
        # Pillow writes a palette in as few bits as its colours need.
        image = image.convert("RGB").quantize(draw(st.sampled_from([2, 3, 16, 40]))) if mode == "P" else image.convert("L").convert(mode)
        if mode in ("1", "L", "P", "RGB") and draw(st.booleans()):
            options["transparency"] = image.getpixel((0, 0))
        if mode == "P" and draw(st.booleans()):
            options["transparency"] = bytes(draw(st.lists(st.sampled_from([0, 1, 3, 15, 128, 255]), min_size=1, max_size=2)))
    else:
        mode = draw(st.sampled_from(["L", "RGB"])) if form == "JPEG" else "RGB"
        image = image.convert("RGB").convert(mode)
        options |= {"quality": draw(st.integers(30, 100)), "progressive": draw(st.booleans())}
        if mode != "L":
            options["subsampling"] = draw(st.sampled_from([0, 1, 2]))
    if form == "MPO":
        options |= {"save_all": True, "append_images": [other]}
    data = encode(image, form, **options)
    with Image.open(io.BytesIO(data)) as opened:
        shown = ImageOps.exif_transpose(opened)
        if shown.mode == "I;16":
            shown = Image.fromarray((np.asarray(shown) >> 8).astype(np.uint8))
        if shown.has_transparency_data:
            shown = shown.convert("RGBA")
            white = Image.new("RGB", shown.size, "white")
            white.paste(shown, mask=shown.getchannel("A"))
            shown = white
    return data, np.asarray(shown.convert("RGB"))


PIXELS = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
JPEG = encode(Image.fromarray(PIXELS), "JPEG")
NOISY_JPEG = encode(Image.fromarray(np.random.default_rng(1).integers(0, 256, PIXELS.shape, np.uint8)), "JPEG")
ROWS = b"".join(b"\0" + row.tobytes() for row in PIXELS)
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
END = chunk(b"IEND", b"")


def of_chunks(*chunks: bytes, header: tuple[int, ...] = (12, 8, 8, 2, 0, 0, 0)) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + b"".join(chunks)


def interlaced(pixels: np.ndarray, missing: int = 0) -> bytes:
    parts = [pixels[y::down, x::right] for x, y, right, down in ADAM7]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = (pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    return of_chunks(chunk(b"IDAT", zlib.compress(rows[: len(rows) - missing])), END, header=header)


DATA = chunk(b"IDAT", zlib.compress(ROWS))
PALETTE_DATA = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(range(12)) for _ in range(8))))
PALETTE_HEADER = (12, 8, 8, 3, 0, 0, 0)
BROKEN = {
    "a PNG without its last chunk": of_chunks(DATA),
    "a PNG whose last byte is missing": of_chunks(DATA, END[:-1]),
    "a PNG whose last row is missing": of_chunks(chunk(b"IDAT", zlib.compress(ROWS[:-37])), END),
    "a PNG with more rows than pixels": of_chunks(DATA, END, header=(12, 80, 8, 2, 0, 0, 0)),
    "a PNG whose pixels have no checksum": of_chunks(chunk(b"IDAT", zlib.compress(ROWS)[:-4]), END),
    "an interlaced PNG whose last row is missing": interlaced(PIXELS, 37),
    "a PNG of an unknown compression": of_chunks(DATA, END, header=(12, 8, 8, 2, 1, 0, 0)),
    "a PNG of an unknown filter": of_chunks(DATA, END, header=(12, 8, 8, 2, 0, 1, 0)),
    "a PNG with two headers": of_chunks(of_chunks()[8:], DATA, END),
    "a PNG whose header is not first": of_chunks()[:8] + chunk(b"tEXt", b"a\0b") + of_chunks(DATA, END)[8:],
    "a PNG with an unknown chunk that matters": of_chunks(chunk(b"ABCD", b""), DATA, END),
    "a PNG without the palette it needs": of_chunks(PALETTE_DATA, END, header=PALETTE_HEADER),
    "a PNG with two palettes": of_chunks(chunk(b"PLTE", bytes(36)), chunk(b"PLTE", bytes(36)), PALETTE_DATA, END, header=PALETTE_HEADER),
    "a PNG with part of a colour": of_chunks(chunk(b"PLTE", bytes(37)), PALETTE_DATA, END, header=PALETTE_HEADER),
    "a JPEG without its end": NOISY_JPEG[:-2],
    "a JPEG with other bytes for its end": NOISY_JPEG[:-2] + b"\0\0",
}
ANIMATED = encode(Image.new("RGB", (12, 8)), save_all=True, append_images=[Image.new("RGB", (12, 8), "red")])
REFUSED = {
    "animated PNG": ("image_animated", ANIMATED),
    "16-bit grey, transparent": ("image_mode", handmade(np.zeros((8, 12), np.uint16), 16, 0, b"\0\0", None)),
    "16-bit colour, transparent": ("image_mode", handmade(np.zeros((8, 12, 3), np.uint16), 16, 2, b"\0" * 6, None)),
    "CMYK JPEG": ("image_mode", encode(Image.new("CMYK", (12, 8)), "JPEG")),
    **{kind: ("image_undecodable", data) for kind, data in BROKEN.items()},
}

WHOLE = {
    "bytes after a PNG's end": (of_chunks(DATA, END, b"further bytes"), PIXELS),
    "bytes after a PNG's pixels": (of_chunks(chunk(b"IDAT", zlib.compress(ROWS + bytes(50))), END), PIXELS),
    "a PNG of a pixel a chunk": (of_chunks(*(chunk(b"IDAT", bytes([byte])) for byte in zlib.compress(ROWS)), END), PIXELS),
    "a PNG with a palette to choose from": (
        of_chunks(chunk(b"PLTE", bytes(9)), chunk(b"eXIf", b""), DATA, chunk(b"tEXt", b"a\0b"), END),
        PIXELS,
    ),
    "bytes after a JPEG's end": (JPEG + b"further bytes", np.asarray(Image.open(io.BytesIO(JPEG)))),
    "a JPEG with a JPEG in it": (
        JPEG[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(JPEG)) + JPEG + JPEG[2:],
        np.asarray(Image.open(io.BytesIO(JPEG))),
    ),
    **{
        f"interlaced, {width}x{height}": (interlaced(PIXELS[:height, :width]), PIXELS[:height, :width])
        for width, height in ((12, 8), (1, 1), (3, 2), (5, 7))
    },
}
