"""The reader on files as TensorFlow writes them, and on damaged files."""

import gzip
import hashlib
import itertools
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from components.data import tfrecords
from components.data.tfrecords import ChangedFileError, Damage, Record, read_records

RECORDS = [bytes([i]) * (100 + i) for i in range(20)]


def write(path: Path, records: list[bytes], compression: str = "") -> bytes:
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for record in records:
            writer.write(record)
    return path.read_bytes()


def offset(index: int) -> int:
    """Returns the start of a record of RECORDS in the uncompressed file, in bytes."""
    return sum(len(record) + 16 for record in RECORDS[:index])


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_undamaged_files(tmp_path: Path, compression: str) -> None:
    write(tmp_path / "f", RECORDS, compression)
    assert list(read_records(tmp_path / "f")) == [Record(i, data) for i, data in enumerate(RECORDS)]


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_files_without_records(tmp_path: Path, compression: str) -> None:
    write(tmp_path / "f", [], compression)
    assert list(read_records(tmp_path / "f")) == []


@pytest.mark.parametrize("length", [0x8B1F, 0x088B1F])
def test_a_plain_file_that_begins_like_a_gzip_file(tmp_path: Path, length: int) -> None:
    assert write(tmp_path / "f", [bytes(length)]).startswith(b"\x1f\x8b")
    assert [item.data for item in read_records(tmp_path / "f")] == [bytes(length)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_wrong_data_damages_one_record(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = bytearray(write(tmp_path / "f", RECORDS))
    content[offset(7) + 12 + 5] ^= 1
    (tmp_path / "f").write_bytes(pack(bytes(content)))
    items = list(read_records(tmp_path / "f"))
    assert [item.index for item in items] == list(range(20))
    assert [item.reason for item in items if isinstance(item, Damage)] == ["record_checksum"]
    assert isinstance(items[7], Damage)
    assert len(items[7].data) == 107


def test_wrong_length_ends_the_file(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "f", RECORDS))
    content[offset(7)] ^= 1
    (tmp_path / "f").write_bytes(content)
    *good, last = read_records(tmp_path / "f")
    assert good == [Record(i, RECORDS[i]) for i in range(7)]
    assert isinstance(last, Damage)
    assert (last.reason, last.index) == ("record_corrupt", 7)


def test_huge_length_is_not_allocated(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**60)
    (tmp_path / "f").write_bytes(length + struct.pack("<I", tfrecords._masked_crc(length)) + b"x")
    (damage,) = read_records(tmp_path / "f")
    assert isinstance(damage, Damage)
    assert damage.reason == "record_corrupt"
    assert str(2**60) in damage.detail


@pytest.mark.parametrize("cut", [offset(7) + 3, offset(7) + 12, offset(7) + 50, offset(8) - 1])
def test_a_truncated_plain_file(tmp_path: Path, cut: int) -> None:
    content = write(tmp_path / "f", RECORDS)
    (tmp_path / "f").write_bytes(content[:cut])
    *good, last = read_records(tmp_path / "f")
    assert len(good) == 7
    assert isinstance(last, Damage)
    assert (last.reason, last.index) == ("record_truncated", 7)


def test_a_truncated_gzip_file_keeps_the_records_before_the_cut(tmp_path: Path) -> None:
    # Each record is flushed, so that complete records are before the cut, as when a writer is killed.
    records = [bytes(f"{i}" * 50, "ascii") for i in range(10)]
    content = write(tmp_path / "f", records)
    with gzip.open(tmp_path / "f", "wb") as stream:
        for begin in range(0, len(content), 66):
            stream.write(content[begin : begin + 66])
            stream.flush()
    packed = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(packed[: len(packed) // 2])
    *good, last = read_records(tmp_path / "f")
    assert good
    assert all(isinstance(item, Record) for item in good)
    assert isinstance(last, Damage)
    assert last.reason == "record_truncated"


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("path,label\na.png,1234\n")
    assert [item.reason for item in read_records(tmp_path / "f") if isinstance(item, Damage)] == ["record_corrupt"]


@given(st.binary(max_size=4096), st.booleans())
def test_any_bytes_can_be_read(tmp_path_factory: pytest.TempPathFactory, content: bytes, gzip_magic: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(b"\x1f\x8b\x08\x00" * gzip_magic + content)
    items = list(read_records(path))
    assert all(item.index == i for i, item in enumerate(items))


@given(st.data())
def test_a_flipped_byte_never_gives_a_wrong_record(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    content = bytearray(write(path, RECORDS[:4], data.draw(st.sampled_from(["", "GZIP"]))))
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    items = list(read_records(path))
    assert all(item.data == RECORDS[item.index] for item in items if isinstance(item, Record))


@given(st.data())
def test_a_damaged_file_is_compared_with_its_hash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("hash") / "f"
    plain = write(path, RECORDS)
    content = data.draw(st.sampled_from([plain, gzip.compress(plain)]))
    end = data.draw(st.integers(0, len(content)))
    flipped = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[flipped] ^= data.draw(st.integers(0, 255))
    path.write_bytes(changed[:end] + data.draw(st.binary(max_size=9)))
    read = list(read_records(path))
    # The hash covers the complete file, including the bytes after a fault that ends the reading.
    assert list(read_records(path, hashlib.sha256(path.read_bytes()).hexdigest())) == read
    if path.read_bytes() == content:
        return
    reader = read_records(path, hashlib.sha256(content).hexdigest())
    assert list(itertools.islice(reader, len(read))) == read
    with pytest.raises(ChangedFileError, match="has changed"):
        next(reader)
