"""Reads the orientation of a JPEG or PNG and the chunks of a PNG from the bytes of the file, without decoding pixels.

components/data/decoding.py has the same rules as a TensorFlow graph, so that the import and the served model see the same pixels.
"""

from collections.abc import Iterator
from typing import Final

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
EXIF_APP1: Final = b"Exif\0\0"  # the start of an APP1 segment of a JPEG with EXIF data
MAX_PARTS: Final = 64  # the limit of JPEG segments or PNG chunks that are searched; real files have only a few before their pixels
ORIENTATION_TAG: Final = 274
UPRIGHT: Final = 1
ORIENTATIONS: Final = range(1, 9)
SIDEWAYS: Final = range(5, 9)  # turned by a quarter


def orientation(data: bytes) -> int:
    """Returns the EXIF orientation of the pixels of a JPEG or PNG, one of ORIENTATIONS.

    In a JPEG, it is read from the first APP1 segment with EXIF data among the application segments and comments at the start. In a PNG,
    it is read from the first chunk eXIf before the pixels. Everything else, including broken EXIF data, is UPRIGHT.
    """
    if data.startswith(PNG_SIGNATURE):
        return exif_orientation(png_chunk(data, b"eXIf") or b"")
    return exif_orientation(_jpeg_exif(data)) if data.startswith(JPEG_SIGNATURE) else UPRIGHT


def png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """Returns the content of the first chunk of a kind, such as b"tRNS", before the pixels of a PNG; None if there is no such chunk."""
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        start, found = position + 8, data[position + 4 : position + 8]
        position = start + int.from_bytes(_padded(data, position, 4), "big")
        if found == kind:
            return data[start:position]
        if found == b"IDAT":
            break
        position += 4  # the checksum
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields the name, content and checksum of each complete chunk of a PNG, up to IEND."""
    position, name = len(PNG_SIGNATURE), b""
    while position + 12 <= len(data) and name != b"IEND":
        start, name = position + 8, data[position + 4 : position + 8]
        end = start + int.from_bytes(data[position : position + 4], "big")
        position = end + 4
        yield name, data[start:end], data[end:position]


def _jpeg_exif(data: bytes) -> bytes:
    position = 2
    for _ in range(MAX_PARTS):
        start, marker = position + 4, _padded(data, position, 2)
        position += 2 + int.from_bytes(_padded(data, position + 2, 2), "big")
        if marker == b"\xff\xe1" and data.startswith(EXIF_APP1, start):
            return data[start + len(EXIF_APP1) : position]
        if marker[0] != 0xFF or not (0xE0 <= marker[1] <= 0xEF or marker[1] == 0xFE):
            break
    return b""


def exif_orientation(tiff: bytes) -> int:
    """Returns the orientation in EXIF data without the leading "Exif"; UPRIGHT if the data is broken or has no orientation.

    EXIF data is a TIFF header and directories of 12-byte entries: tag, type, count, value. The tag must be in the first directory, with
    type 3 (16 bits) and count 1, as in CIPA DC-008 (Exif 2.32), section 4.6.4.
    """
    little = tiff.startswith(b"II*\0")
    if not little and not tiff.startswith(b"MM\0*"):
        return UPRIGHT

    def number(position: int, size: int) -> int:
        return int.from_bytes(_padded(tiff, position, size), "little" if little else "big")

    first = number(4, 4) + 2
    for entry in range(first, min(first + 12 * number(first - 2, 2), len(tiff) - 11), 12):
        if number(entry, 2) == ORIENTATION_TAG:
            value = number(entry + 8, 2)
            return value if (number(entry + 2, 2), number(entry + 4, 4)) == (3, 1) and value in ORIENTATIONS else UPRIGHT
    return UPRIGHT


def _padded(data: bytes, start: int, size: int) -> bytes:
    """Returns `size` bytes from `start`. Bytes beyond the end are 0."""
    return data[start : start + size].ljust(size, b"\0")
