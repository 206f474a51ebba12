"""What the headers of a JPEG or PNG say besides its size: which way up it is, and which chunks a PNG has. Bytes only.

components/data/decoding.py has the same rules as a TensorFlow graph, so that the import and the served model see the same pixels.
"""

from collections.abc import Iterator
from typing import Final

PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE: Final = b"\xff\xd8\xff"
EXIF_APP1: Final = b"Exif\0\0"  # how an APP1 segment of a JPEG starts that holds EXIF data
MAX_PARTS: Final = 64  # segments of a JPEG or chunks of a PNG that are looked at; real files have a handful before their pixels
ORIENTATION_TAG: Final = 274
UPRIGHT: Final = 1
ORIENTATIONS: Final = range(1, 9)


def orientation(data: bytes) -> int:
    """Returns how the pixels of a JPEG or PNG are turned: one of ORIENTATIONS, as EXIF numbers them.

    It is that of a JPEG's first APP1 segment with EXIF data, of the segments for applications and comments that come first, or of a
    PNG's first chunk eXIf before the pixels. All else, broken EXIF data too, is UPRIGHT.
    """
    if data.startswith(PNG_SIGNATURE):
        return exif_orientation(png_chunk(data, b"eXIf") or b"")
    return exif_orientation(_jpeg_exif(data)) if data.startswith(JPEG_SIGNATURE) else UPRIGHT


def png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """Returns the content of a PNG's first chunk of a kind, such as b"tRNS", before the pixels; None where there is none."""
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
    """Yields name, content and checksum of each chunk of a PNG that is there as a whole, up to IEND."""
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
    """Returns the orientation that EXIF data, without the "Exif" before it, give; UPRIGHT where they are broken or give none.

    EXIF data are a TIFF header and directories of entries of 12 bytes: tag, type, count, value. The tag must be in the first directory,
    its type 3 (16 bits) and its count 1, as CIPA DC-008 (Exif 2.32), section 4.6.4, has it.
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
    """Returns `size` bytes; those beyond the end are 0."""
    return data[start : start + size].ljust(size, b"\0")
