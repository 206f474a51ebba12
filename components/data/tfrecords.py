"""Reads TFRecord files that may be damaged, and reports the damage.

TensorFlow's own reader stops at the first fault and loses the rest of the file. On disk, a record is
`uint64 length | uint32 masked CRC-32C of length | data | uint32 masked CRC-32C of data`, little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
"""

import gzip
import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from components.base.errors import CaptchaPipelineError

MAX_RECORD_BYTES: Final = 64 * 2**20
_HEADER_BYTES: Final = 12
_FOOTER_BYTES: Final = 4
_BLOCK_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """A complete record. `index` counts from 0 in its file."""

    index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """A place in a file where a complete record is missing.

    Attributes:
      reason: `record_checksum` (reading continues after it), `record_corrupt` or `record_truncated` (reading ends there).
      index: of the missing record.
      detail: a description for the user, without a full stop.
      data: the bytes of the record that could be read.
    """

    reason: str
    index: int
    detail: str
    data: bytes


class ChangedFileError(CaptchaPipelineError):
    """A file differs from its description in the manifest of its span."""


class _HashedFile(io.BufferedReader):
    """A file that is read from start to end, with the SHA-256 of the bytes read so far."""

    def __init__(self, path: str | Path):
        super().__init__(io.FileIO(path))
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """Reads the rest of the file and returns the hexadecimal hash of the whole file."""
        while self.read(_BLOCK_BYTES):
            pass
        return self._digest.hexdigest()


def read_records(path: str | Path, sha256: str | None = None) -> Iterator[Record | Damage]:
    """Yields the records of a TFRecord file, and its damage, in order. The first bytes tell whether the file is gzipped or plain.

    Args:
      path: of the file.
      sha256: the expected hash of the whole file, hexadecimal; None if it is not known. It is compared after all records have been yielded,
        so that the file is read only once: discard everything made from the records if the hash differs.

    Raises:
      ChangedFileError: the hash differs.
      OSError: the file cannot be opened or read.
    """
    with _HashedFile(path) as raw:
        head = raw.peek(_HEADER_BYTES)[:_HEADER_BYTES]
        # A plain file whose first record is 0x..8b1f bytes long begins like a gzip file, but only a plain file has a valid checksum there.
        if head[:2] == b"\x1f\x8b" and not _header_is_right(head):
            # No further buffer: a buffer that reads ahead loses its contents when it reaches the damage.
            with gzip.GzipFile(fileobj=raw) as stream:
                yield from _read(stream)
        else:
            yield from _read(raw)
        if sha256 is not None and (found := raw.sha256()) != sha256:
            raise ChangedFileError(
                f"{path} has changed: its SHA-256 begins with {found[:12]}, but the manifest of its span has {sha256[:12]}. Spans must not "
                "change: put the file back as it was, or stop using the span (data.exclude, data.golden) and import its pictures again."
            )


def whole_records(folder: Path) -> Iterator[bytes]:
    """Yields the records of the files that Beam has written into a folder, in the order of the file names.

    Raises:
      CaptchaPipelineError: a file is damaged.
    """
    for path in sorted(folder.glob("*-of-*")):
        for item in read_records(path):
            if not isinstance(item, Record):
                raise CaptchaPipelineError(f"{path} is damaged: {item.detail}. Remove the run's artifacts, or run with another root.")
            yield item.data


def _read(stream: _HashedFile | gzip.GzipFile) -> Iterator[Record | Damage]:
    index = 0
    while True:
        header, fault = _take(stream, _HEADER_BYTES)
        if not header and not fault:
            return
        if len(header) < _HEADER_BYTES:
            yield Damage(
                "record_truncated",
                index,
                fault or f"the file ends inside the header of record {index}",
                header,
            )
            return
        if not _header_is_right(header):
            detail = f"the length of record {index} has a wrong checksum; the start of the next record is unknown"
            yield Damage("record_corrupt", index, detail, header)
            return
        (length,) = struct.unpack_from("<Q", header)
        if length > MAX_RECORD_BYTES:
            yield Damage(
                "record_corrupt",
                index,
                f"record {index} is {length} bytes long; the limit is {MAX_RECORD_BYTES} bytes",
                header,
            )
            return
        body, fault = _take(stream, length + _FOOTER_BYTES)
        if len(body) < length + _FOOTER_BYTES:
            detail = fault or f"the file ends inside record {index}: {len(body)} of {length + _FOOTER_BYTES} bytes exist"
            yield Damage("record_truncated", index, detail, body[:length])
            return
        data = body[:length]
        if _masked_crc(data) == struct.unpack_from("<I", body, length)[0]:
            yield Record(index, data)
        else:
            yield Damage(
                "record_checksum",
                index,
                f"the data of record {index} do not match their checksum",
                data,
            )
        index += 1


def _take(stream: _HashedFile | gzip.GzipFile, size: int) -> tuple[bytes, str]:
    """Returns up to `size` bytes, and the fault of the gzip stream ("" for no fault)."""
    try:
        return stream.read(size), ""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return b"", f"the gzip stream is damaged: {error}"


def _header_is_right(header: bytes) -> bool:
    return len(header) == _HEADER_BYTES and _masked_crc(header[:8]) == struct.unpack_from("<I", header, 8)[0]


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
