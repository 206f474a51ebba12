"""Reads the headers and checks the parts of a PNG or JPEG, without decoding pixels.

The rules are those of the model's SavedModel. components/data/exif.py and components/data/pictures.py of captcha-pipeline have the same.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
UPRIGHT: Final = 1
_EXIF_APP1: Final = b"Exif\0\0"
_MAX_PARTS: Final = 64  # segments or chunks that are searched
_ORIENTATION_TAG: Final = 274
# The names of a PNG's chunks in the order of the standard (https://www.w3.org/TR/png-3/#5ChunkOrdering).
_ANY: Final = rb"(?:(?!tRNS)[a-z]...)*"
_PNG_CHUNKS: Final = re.compile(rb"IHDR%b(?:PLTE%b)?(?:tRNS%b)?(?:IDAT)+%bIEND" % ((_ANY,) * 4), re.DOTALL)
# IHDR has 13 bytes. Its compression and filter bytes have only one valid value each.
_PNG_HEADER: Final = re.compile(rb".{8}\0\0\0\x0dIHDR.{10}\0\0[\0\1]", re.DOTALL)
_PNG_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# The passes of an interlaced PNG: first column, first row, step between columns, step between rows.
_ADAM7: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
# All markers except those inside the pixel data, which are not followed by a length.
_JPEG_MARKER: Final = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")


def orientation(data: bytes) -> int:
    """Returns the EXIF orientation of a JPEG or PNG, 1 to 8 (CIPA DC-008, section 4.6.4); UPRIGHT without valid EXIF data."""
    exif = png_chunk(data, b"eXIf") or b"" if data.startswith(PNG_SIGNATURE) else _jpeg_exif(data)
    little = exif.startswith(b"II*\0")
    if not little and not exif.startswith(b"MM\0*"):
        return UPRIGHT

    def number(position: int, size: int) -> int:
        return int.from_bytes(_padded(exif, position, size), "little" if little else "big")

    first = number(4, 4) + 2
    for entry in range(first, min(first + 12 * number(first - 2, 2), len(exif) - 11), 12):
        if number(entry, 2) == _ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if (number(entry + 2, 2), number(entry + 4, 4)) == (3, 1) and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """Returns the content of the first chunk of a kind before the pixels of a PNG; None if there is no such chunk."""
    position = len(PNG_SIGNATURE)
    for _ in range(_MAX_PARTS):
        start, found = position + 8, data[position + 4 : position + 8]
        position = start + int.from_bytes(_padded(data, position, 4), "big")
        if found == kind:
            return data[start:position]
        if found == b"IDAT":
            break
        position += 4  # the checksum
    return None


def _jpeg_exif(data: bytes) -> bytes:
    position = 2
    for _ in range(_MAX_PARTS):
        start, marker = position + 4, _padded(data, position, 2)
        position += 2 + int.from_bytes(_padded(data, position + 2, 2), "big")
        if marker == b"\xff\xe1" and data.startswith(_EXIF_APP1, start):
            return data[start + len(_EXIF_APP1) : position]
        if marker[0] != 0xFF or not (0xE0 <= marker[1] <= 0xEF or marker[1] == 0xFE):
            break
    return b""


def _padded(data: bytes, start: int, size: int) -> bytes:
    return data[start : start + size].ljust(size, b"\0")


def png_is_whole(data: bytes) -> bool:
    """Returns whether a PNG has all its pixels, correct checksums, and all its chunks in the right order. Pillow does not check this."""
    names, packed = list[bytes](), list[bytes]()
    for name, content, checksum in _png_chunks(data):
        if zlib.crc32(content, zlib.crc32(name)).to_bytes(4, "big") != checksum:
            return False
        if name == b"PLTE" and len(content) % 3:
            return False
        names.append(name)
        if name == b"IDAT":
            packed.append(content)
    has_palette = data[25] != 3 or b"PLTE" in names
    if not has_palette or not _PNG_HEADER.match(data) or not _PNG_CHUNKS.fullmatch(b"".join(names)):
        return False
    return _unpacks(b"".join(packed), _unpacked_size(data))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields the name, content and checksum of each complete chunk, up to IEND."""
    position, name = len(PNG_SIGNATURE), b""
    while position + 12 <= len(data) and name != b"IEND":
        start, name = position + 8, data[position + 4 : position + 8]
        end = start + int.from_bytes(data[position : position + 4], "big")
        position = end + 4
        yield name, data[start:end], data[end:position]


def _unpacked_size(png: bytes) -> int:
    """Returns the number of bytes in the rows of a PNG, including one filter byte per row."""
    width, height, depth, colour_type, interlaced = struct.unpack_from(">IIBBxxB", png, 16)
    bits = depth * _PNG_CHANNELS[colour_type]
    size = 0
    for x, y, step_x, step_y in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // step_x), -((y - height) // step_y)
        size += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    return size


def _unpacks(packed: bytes, size: int) -> bool:
    """Returns whether a zlib stream has more than `size` bytes, or exactly `size` bytes and its end."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, size + 1)  # one byte more, so that zlib also reads the checksum at the end
    except zlib.error:
        return False
    return len(unpacked) > size or (len(unpacked) == size and stream.eof)


def jpeg_is_whole(data: bytes) -> bool:
    """Returns whether a JPEG has its end marker. Pillow needs only the pixels."""
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        if found[0] == b"\xff\xd9":
            return True
        position = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return False
