"""Inputs for benchmarks/hostile.py: pictures, records, labels and tables as a stranger could make them. A seed determines all of them."""

import contextlib
import functools
import io
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.exif import PNG_SIGNATURE, png_chunks
from components.data.records import canonical_example

Expectation = Literal["good", "bad", "either"]

# Letters of several scripts, one of them right to left. Unicode can also write some of these letters as two characters.
SPEC: Final = CaptchaSpec.model_validate({"charset": "0123456789éüñжλي日本", "length": {"min": 1, "max": 6}, "width": 60, "height": 24})
MAX_PIXELS: Final = 200_000

_READ: Final = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
_NOT_READ: Final = ("PPM", "TGA", "PCX", "ICO", "SGI", "IM", "MSP", "SPIDER", "XBM", "DDS", "PDF", "EPS", "JPEG2000", "ICNS", "BLP", "PALM")
_MODES: Final = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F", "La", "RGBa")
_NO_SAFE_CONVERSION: Final = ("I", "F", "LAB", "HSV")
# Programs convert a CMYK JPEG to RGB in different ways. Pillow cannot read back its own TIFFs of mode YCbCr: they do not declare that their
# colour is not subsampled, and the default of the format is subsampling.
_UNREAD_KINDS: Final = (("JPEG", "CMYK"), ("TIFF", "YCbCr"))
_CHUNKS: Final = (
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"gAMA",
    b"cHRM",
    b"iCCP",
    b"sBIT",
    b"pHYs",
    b"eXIf",
    b"tEXt",
    b"acTL",
    b"fcTL",
    b"ABCD",
)


@dataclass(frozen=True)
class Hostile:
    """A picture file and its required outcome."""

    kind: str
    data: bytes
    ending: str
    expected: Expectation


def noise(seed: int, width: int = SPEC.width, height: int = SPEC.height) -> Image.Image:
    """Returns an RGB picture that is unique to the seed, so that an import leaves no picture out as a copy."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Returns the picture as a file of format `kind`. Raises whatever Pillow raises for a mode that the format lacks."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def formats_and_modes(count: int, first: int = 0, kinds: tuple[str, ...] = (*_READ, *_NOT_READ)) -> Iterator[Hostile]:
    """Yields pictures of formats that Pillow writes, in every mode of each format. `first` is the seed of the first picture."""
    writable = _writable(kinds)
    for number in range(count):
        kind, mode = writable[number % len(writable)]
        data = encoded(_in_mode(noise(first + number), mode), kind)
        readable = kind in _READ and (kind, mode) not in _UNREAD_KINDS and Image.open(io.BytesIO(data)).mode not in _NO_SAFE_CONVERSION
        yield Hostile(f"{kind} of mode {mode}", data, kind.lower(), "good" if readable else "bad")


@functools.cache
def _writable(kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """Returns each format with each mode in which Pillow can write it."""
    found = []
    for kind, mode in itertools.product(kinds, _MODES):
        # Pillow writes GIFs and WebPs of these modes all white. An ICNS takes it a third of a second.
        if (kind in ("GIF", "WEBP") and mode.startswith("I")) or (kind == "ICNS" and mode != "RGB"):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, struct.error, SystemError):
            encoded(_in_mode(noise(0), mode), kind)
            found.append((kind, mode))
    return found


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("I;16", "I;16B"):
        return Image.fromarray(np.asarray(image.convert("L")).astype(">u2" if mode.endswith("B") else "<u2") * 257)
    if mode == "I":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.int32) * 257)
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    if mode in ("La", "RGBa"):
        return image.convert(mode[:-1].upper() + "A").convert(mode)
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


def damaged(count: int, damage: str, rng: random.Random) -> Iterator[Hostile]:
    """Yields good pictures that are damaged by one of DAMAGES, or by `rechunked` if `damage` is not among them."""
    harm = DAMAGES.get(damage, rechunked)
    seeds = itertools.count(rng.randrange(10**6, 10**9), 1000)
    made = itertools.chain.from_iterable(itertools.chain(formats_and_modes(100, seed, _READ), odd(100, rng, seed + 500)) for seed in seeds)
    good = (it for it in made if it.expected == "good" and (harm is not rechunked or it.data.startswith(PNG_SIGNATURE)))
    for picture in itertools.islice(good, count):
        yield Hostile(f"{damage}: {picture.kind}", harm(picture.data, rng), picture.ending, "either")


def cut(data: bytes, rng: random.Random) -> bytes:
    """Returns the beginning of `data`, up to a random place."""
    return data[: _place(data, rng)]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Returns `data` with one to four bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _place(data: bytes, rng: random.Random) -> int:
    """Returns a random index into `data`, half of the time near one of its ends, because headers and trailers are short."""
    near = rng.randrange(min(100, len(data)))
    return rng.choice((rng.randrange(len(data)), rng.randrange(len(data)), near, len(data) - 1 - near))


DAMAGES: Final[dict[str, Callable[[bytes, random.Random], bytes]]] = {"cut": cut, "bits flipped": flipped}


def rechunked(png: bytes, rng: random.Random) -> bytes:
    """Returns a PNG with one chunk removed, repeated, changed or shortened, or with an additional chunk. All checksums are correct."""
    chunks = [(name, content) for name, content, _ in png_chunks(png)]
    place, elsewhere = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    name, content = chunks[place]
    changed = flipped(content, rng) if content else b"\0"
    chunks[place : place + 1] = rng.choice(
        (
            [],
            [(name, content), (name, content)],
            [chunks[elsewhere], (name, content)],
            [(name, changed)],
            [(name, content[: len(content) // 2])],
            [(rng.choice(_CHUNKS), rng.randbytes(rng.randint(0, 30))), (name, content)],
        )
    )
    return PNG_SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def odd(count: int, rng: random.Random, first: int = 200_000) -> Iterator[Hostile]:
    """Yields undamaged but unusual files: too large, animated, with strange metadata, of a few pixels, or no pictures at all.

    `first` is the seed of the first picture.
    """
    makers: tuple[tuple[str, str, Expectation, Callable[[Image.Image], bytes]], ...] = (
        ("larger than allowed", "png", "bad", lambda it: encoded(it.resize((1000, 1000), Image.Resampling.NEAREST), "PNG")),
        ("a header of 60000x60000", "png", "bad", _bomb),
        ("animated GIF", "gif", "bad", lambda it: encoded(it, "GIF", save_all=True, append_images=[it.rotate(180)])),
        ("animated WebP", "webp", "bad", lambda it: encoded(it, "WEBP", save_all=True, append_images=[it.rotate(180)])),
        ("animated PNG", "png", "bad", lambda it: encoded(it, "PNG", save_all=True, append_images=[it.rotate(180)])),
        ("TIFF of two pages", "tiff", "bad", lambda it: encoded(it, "TIFF", save_all=True, append_images=[it.rotate(180)])),
        ("EXIF orientation", "jpg", "good", lambda it: encoded(it, "JPEG", exif=_exif(rng.randint(0, 9)))),
        ("EXIF orientation", "png", "good", lambda it: encoded(it, "PNG", exif=_exif(rng.randint(1, 8)))),
        ("EXIF of random bytes", "jpg", "good", lambda it: encoded(it, "JPEG", exif=b"Exif\0\0" + rng.randbytes(40))),
        ("ICC profile of random bytes", "png", "good", lambda it: encoded(it, "PNG", icc_profile=rng.randbytes(200))),
        ("ICC profile of random bytes", "jpg", "good", lambda it: encoded(it, "JPEG", icc_profile=rng.randbytes(200))),
        ("tRNS", "png", "good", lambda it: encoded(it, "PNG", transparency=it.getpixel((0, 0)))),
        ("tRNS of a palette", "png", "good", lambda it: encoded(it.convert("P"), "PNG", transparency=bytes(range(256)))),
        ("progressive JPEG", "jpg", "good", lambda it: encoded(it, "JPEG", progressive=True, subsampling=rng.randrange(3))),
        ("MPO of two pictures", "jpg", "good", lambda it: encoded(it, "MPO", save_all=True, append_images=[it.rotate(180)])),
        ("bytes after the end", "png", "good", lambda it: encoded(it, "PNG") + rng.randbytes(50)),
        ("an unknown chunk", "png", "good", lambda it: _with_chunk(encoded(it, "PNG"), b"xyZz", rng.randbytes(20))),
        ("a wrong checksum", "png", "bad", lambda it: _with_wrong_checksum(encoded(it, "PNG"))),
        ("one pixel", "png", "good", lambda it: encoded(it.crop((0, 0, 1, 1)), "PNG")),
        ("one row", "jpg", "good", lambda it: encoded(it.crop((0, 0, rng.randint(9, it.width), 1)), "JPEG")),
        ("no bytes", "png", "bad", lambda it: b""),
        ("text", "png", "bad", lambda it: rng.randbytes(8).hex().encode()),
        ("random bytes after a PNG's signature", "png", "bad", lambda it: b"\x89PNG\r\n\x1a\n" + rng.randbytes(300)),
        ("HTML", "jpg", "bad", lambda it: b"<html>" + rng.randbytes(20).hex().encode()),
    )
    for number in range(count):
        kind, ending, expected, make = makers[number % len(makers)]
        yield Hostile(kind, make(noise(first + number)), ending, expected)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _bomb(image: Image.Image) -> bytes:
    data = encoded(image, "PNG")
    return data[:8] + _chunk(b"IHDR", struct.pack(">II", 60_000, 60_000) + data[24:29]) + data[33:]


def _with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    return png[:33] + _chunk(name, content) + png[33:]


def _with_wrong_checksum(png: bytes) -> bytes:
    return png[:29] + bytes(4) + png[33:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def labels(count: int, rng: random.Random) -> Iterator[tuple[str, Expectation]]:
    """Yields labels, and whether SPEC allows each."""
    good = ["é", "éü", "日本", "يλж", "ñ1ж", "012345"]  # the first two with the accent as a character of its own
    bad = [
        "",
        " ",
        "1234567",
        "1 2",
        "1\u202e2",
        "１２",
        "a",
        "é́",
        "\u200d",
        "👩‍👩‍👧",
        "ﬁ",
        "0\n1",
        "\ufeff1",
        "\x00",
        "x" * 10_000,
        "\u0301",
        "ς",
        "É",
    ]
    for _ in range(count):
        if rng.random() < 0.5:
            yield "".join(rng.choices(SPEC.characters, k=rng.randint(1, 6))) if rng.random() < 0.5 else rng.choice(good), "good"
        else:
            yield rng.choice(bad), "bad"


def records(count: int, rng: random.Random) -> Iterator[tuple[str, bytes, Expectation]]:
    """Yields names and serialized tf.Examples: whole, cut, and with flipped bits."""
    for number in range(count):
        label = "".join(rng.choices(SPEC.characters, k=rng.randint(1, 6)))
        name = f"record-{number}"
        data = canonical_example(encoded(noise(300_000 + number), "PNG"), label, "records", {"file": name}).SerializeToString()
        damage = rng.choice(("", *DAMAGES))
        yield (name, DAMAGES[damage](data, rng), "either") if damage else (name, data, "good")


def tables(count: int, picture: str, rng: random.Random) -> Iterator[tuple[str, bytes, Expectation]]:
    """Yields the file name extension and the content of tables that list `picture`, a file in the same folder."""
    row = json.dumps({"path": picture, "label": "1"}).encode()
    makers: tuple[tuple[str, Expectation, Callable[[], bytes]], ...] = (
        ("csv", "good", lambda: f"path,label\n{picture},1\n".encode()),
        ("csv", "good", lambda: f'\ufefflabel,path,more\r\n"1","{picture}",x\r\n'.encode()),
        ("csv", "good", lambda: f"path,label\n\n{picture},1".encode()),
        ("csv", "bad", lambda: f"file,text\n{picture},1\n".encode()),
        ("csv", "bad", lambda: f"path,label\n{picture}\n".encode()),
        ("csv", "bad", lambda: b""),
        ("csv", "bad", lambda: b"path,label\n" + b"x" * 200_000 + b",1\n"),
        ("csv", "bad", lambda: f"path,label\n{picture},1\x00\n".encode()),
        ("csv", "bad", lambda: "path,label\n1,1\n".encode("utf-16")),
        ("csv", "bad", lambda: b"path,label\n../../../etc/passwd,1\n"),
        ("csv", "bad", lambda: b"path,label\n/dev/zero,1\n"),
        ("csv", "bad", lambda: b'path,label\n"never ends,1\n'),
        ("csv", "either", lambda: flipped(f"path,label\n{picture},1\n".encode(), rng)),
        ("csv", "bad", lambda: rng.randbytes(300)),
        ("jsonl", "good", lambda: row + b"\n"),
        ("jsonl", "good", lambda: b"\xef\xbb\xbf" + row + b"\n\n\n"),
        ("jsonl", "bad", lambda: b"[" * 100_000),
        ("jsonl", "bad", lambda: row.replace(b'"1"', b"1")),
        ("jsonl", "bad", lambda: b"null\n"),
        ("jsonl", "bad", lambda: row.replace(b'"1"', b'"\\ud800"')),
        ("jsonl", "bad", lambda: row[:-1]),
        ("jsonl", "bad", lambda: b'{"path": "missing.png", "label": "1"}'),
        ("jsonl", "either", lambda: flipped(row, rng)),
        ("jsonl", "bad", lambda: rng.randbytes(300)),
    )
    for number in range(count):
        ending, expected, make = makers[number % len(makers)]
        yield ending, make(), expected
