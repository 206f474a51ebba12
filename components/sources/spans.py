"""Spans: how data lies on disk.

    DATA/span-000001/{train,eval,test}/shard-00000-of-00006.tfrecord.gz, manifest.json, and data_info.csv in the book's layout

A span is there whole or not at all, and never changes. The manifest holds no time and no name of a machine, so the same
pictures give the same bytes.
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import io
import os
import re
import shutil
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal

import google_crc32c
from pydantic import BaseModel, ConfigDict, ValidationError

from components.captcha import CaptchaSpec
from components.errors import CaptchaPipelineError
from components.features import MANIFEST, SPLITS

Layout = Literal["canonical", "book"]

_DRAFT: Final = ".draft-"
_SPAN: Final = re.compile(r"span-(\d{6,})")
# Raw pixels shrink to a third. Encoded pictures hardly shrink: level 1 saves 5 % of the bytes and costs 7 % of the time to draw them.
_GZIP_LEVEL: Final[dict[str, int]] = {"canonical": 0, "book": 6}
_BUFFER: Final = 2**18  # bytes: GzipFile takes as long for a small piece as for a large one


class ShardFile(BaseModel):
    """A file of a span; `path` is relative to the span, `sha256` is of the file as it lies on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    records: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a span holds and how it was made. `counts` gives the records of each split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    spec: CaptchaSpec
    seed: int | None
    source: str
    params: dict[str, Any]
    counts: dict[str, int]
    files: tuple[ShardFile, ...]


@dataclass(frozen=True)
class Span:
    number: int
    path: Path
    manifest: Manifest

    def files(self, split: str) -> list[Path]:
        """Returns the split's shards, in their order."""
        return [self.path / file.path for file in self.manifest.files if file.path.startswith(f"{split}/")]

    @property
    def checksum(self) -> str:
        """The hexadecimal SHA-256 of the manifest, which holds those of the files: what `sha256sum manifest.json` prints."""
        return hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()

    def damaged_files(self) -> list[Path]:
        """Returns the files that are not as the manifest says, by size and SHA-256."""
        return [self.path / file.path for file in self.manifest.files if _describe(self.path, file.path, file.records) != file]


def write_manifest(
    path: Path, *, layout: Layout, spec: CaptchaSpec, seed: int | None, source: str, params: dict[str, Any], files: list[ShardFile]
) -> Manifest:
    """Writes the manifest of the span in the folder `path` and returns it."""
    files = sorted(files, key=lambda file: (SPLITS.index(file.path.partition("/")[0]), file.path))
    counts = {split: sum(file.records for file in files if file.path.startswith(f"{split}/")) for split in SPLITS}
    manifest = Manifest(layout=layout, spec=spec, seed=seed, source=source, params=params, counts=counts, files=tuple(files))
    (path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def load_span(path: Path) -> Span:
    """Reads the span in a folder.

    Raises:
      CaptchaPipelineError: the folder is not named like a span, or its manifest is missing or not right.
    """
    match = _SPAN.fullmatch(path.name)
    if not match:
        raise CaptchaPipelineError(f"{path} is not a span: its name must be like span-000001.")
    return Span(int(match[1]), path, _read_manifest(path))


def _read_manifest(path: Path) -> Manifest:
    remedy = f"Remove {path}, or put its {MANIFEST} back."
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read {path / MANIFEST}: {error.strerror}. {remedy}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise CaptchaPipelineError(f"{path / MANIFEST} is not a span's manifest: {key} {problem['msg']}. {remedy}") from None
    for file in manifest.files:
        # A manifest from elsewhere must not lead out of its span.
        if file.path.partition("/")[0] not in SPLITS or ".." in Path(file.path).parts:
            raise CaptchaPipelineError(f"{path / MANIFEST} names {file.path!r}, which is not in one of its splits. {remedy}")
    return manifest


def list_spans(root: str | Path) -> list[Span]:
    """Returns the spans in a folder, oldest first; none where the folder is missing. Raises CaptchaPipelineError as `load_span`."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted((load_span(path) for path in root.iterdir() if _SPAN.fullmatch(path.name)), key=lambda span: span.number)


def span_name(number: int) -> str:
    """Returns the name of the folder of the span with this number."""
    return f"span-{number:06d}"


def next_number(root: str | Path) -> int:
    """Returns the number that the next span will get."""
    names = [path.name for path in Path(root).iterdir()] if Path(root).is_dir() else []
    return 1 + max((int(match[1]) for match in map(_SPAN.fullmatch, names) if match), default=0)


@dataclass(frozen=True)
class Window:
    """The spans that a run reads: `spans`, oldest first, to train and to be judged by, and `golden`, to be judged by in any case."""

    spans: tuple[Span, ...]
    golden: Span | None

    @property
    def digest(self) -> str:
        """A hexadecimal SHA-256 over the numbers and manifests, and so over the contents, of all of them."""
        digest = hashlib.sha256()
        for span in (*self.spans, *([self.golden] if self.golden else [])):
            digest.update(f"{span.number} {span.manifest.model_dump_json()}\n".encode())
        return digest.hexdigest()


def window(root: str | Path, n: int | None, exclude: Iterable[int] = (), golden: int | None = None) -> Window:
    """Returns the newest `n` spans, or all for None.

    Args:
      root: the data folder.
      n: how many.
      exclude: numbers of spans that are not used.
      golden: the number of the span by whose test split every model is judged.

    Raises:
      CaptchaPipelineError: there is none to use, or no golden one of that number.
    """
    spans = list_spans(root)
    if not spans:
        raise CaptchaPipelineError(f"There are no spans in {root}. Make one with `captcha-pipeline data synth` or `data import`.")
    used = [span for span in spans if span.number not in set(exclude)]
    if not used:
        raise CaptchaPipelineError(f"data.exclude leaves none of the {len(spans)} spans in {root}: take one out of it, or make a span.")
    kept = {span.number: span for span in spans}
    if golden is not None and golden not in kept:
        there = ", ".join(map(str, kept))
        raise CaptchaPipelineError(f"data.golden is {golden}, and {root} has the spans {there}: put that one back, or name another.")
    return Window(tuple(used if n is None else used[-n:]), kept[golden] if golden is not None else None)


def window_as_of(digest: str, root: str | Path, n: int | None, exclude: Iterable[int] = (), golden: int | None = None) -> Window:
    """Returns the window that has this digest, whatever spans have come since it was looked at; what is there now for "".

    Raises:
      CaptchaPipelineError: a span of it is gone or another since, or as `window`.
    """
    there = window(root, n, exclude, golden)
    later: set[int] = set()
    while digest and there.digest != digest:
        later.add(there.spans[-1].number)
        try:
            there = window(root, n, {*exclude, *later}, golden)
        except CaptchaPipelineError:
            raise CaptchaPipelineError(f"A span in {root} was removed or changed after the run began. Start the run again.") from None
    return there


class new_span:
    """Makes a span in one step: `with new_span(root) as path:` gives a hidden folder to write in.

    On success the folder, which must have a manifest by then, becomes the next span, which `span` then is; on an error or
    Ctrl-C it is deleted.
    """

    span: Span

    def __init__(self, root: str | Path):
        self._root = Path(root)

    def __enter__(self) -> Path:
        self._draft = self._root / f"{_DRAFT}{uuid.uuid4().hex}"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            # Between its making and its lock a draft looks abandoned.
            with _alone_in(self._root):
                _remove_abandoned(self._root)
                self._draft.mkdir()
                self._lock = os.open(self._draft, os.O_RDONLY)
                _lock(self._lock)
        except OSError as error:
            raise CaptchaPipelineError(
                f"Cannot write in {self._root}: {error.strerror}. Choose another folder with --set data.root=…"
            ) from None
        return self._draft

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if kind is None:
                self.span = self._publish()
        finally:
            shutil.rmtree(self._draft, ignore_errors=True)
            os.close(self._lock)

    def _publish(self) -> Span:
        manifest = _read_manifest(self._draft)
        for path in [*self._draft.rglob("*"), self._draft]:
            _sync(path)
        while True:
            number = next_number(self._root)
            target = self._root / span_name(number)
            try:
                self._draft.rename(target)
                break
            except OSError as error:
                # Another process has been first. A folder that is not empty is never replaced, and the next number is free.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        _sync(self._root)
        return Span(number, target, manifest)


def _remove_abandoned(root: Path) -> None:
    """Removes drafts whose process is gone, after a kill -9: their lock is free."""
    for draft in root.glob(f"{_DRAFT}*"):
        with contextlib.suppress(OSError):
            handle = os.open(draft, os.O_RDONLY)
            try:
                if _lock(handle):
                    shutil.rmtree(draft, ignore_errors=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for the same folder."""
    handle = os.open(root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another process, or a file system without locks
        return False
    return True


class ShardWriter:
    """Writes one shard of each split, as gzipped TFRecords that depend on the records alone.

    Args:
      root: the folder of the span.
      name: of the shard's file, without its ending.
      layout: of the records.

    `files`, once it is closed, is what the manifest says of them.
    """

    files: list[ShardFile]

    def __init__(self, root: Path, name: str, layout: Layout):
        self._root = root
        self._name = f"{name}.tfrecord.gz"
        self._layout = layout
        self._counts = dict.fromkeys(SPLITS, 0)
        self._writers: dict[str, io.BufferedWriter] = {}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> "ShardWriter":
        for split in SPLITS:
            (self._root / split).mkdir(exist_ok=True)
            raw = self._open.enter_context(open(self._root / split / self._name, "xb"))
            # Neither a time nor a name in gzip's header: they would differ from run to run.
            zipped = self._open.enter_context(gzip.GzipFile("", "wb", _GZIP_LEVEL[self._layout], raw, mtime=0))
            self._writers[split] = self._open.enter_context(io.BufferedWriter(zipped, _BUFFER))
        return self

    def write(self, split: str, record: bytes) -> None:
        length = struct.pack("<Q", len(record))
        self._writers[split].write(b"".join((length, _masked_crc(length), record, _masked_crc(record))))
        self._counts[split] += 1

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self.files = [_describe(self._root, f"{split}/{self._name}", count) for split, count in self._counts.items()]


def rename_shards(root: Path, files: list[ShardFile], shards: int) -> list[ShardFile]:
    """Gives the files of `shards` shards, written as `shard-00000` and so on, their full names, `shard-00000-of-00006`."""
    renamed = []
    for file in files:
        path = file.path.replace(".tfrecord.gz", f"-of-{shards:05d}.tfrecord.gz")
        (root / file.path).rename(root / path)
        renamed.append(file.model_copy(update={"path": path}))
    return renamed


def _describe(root: Path, path: str, records: int) -> ShardFile:
    digest = hashlib.sha256()
    size = 0
    with contextlib.suppress(OSError), open(root / path, "rb") as file:
        for block in _blocks(file):
            digest.update(block)
            size += len(block)
    return ShardFile(path=path, records=records, bytes=size, sha256=digest.hexdigest())


def _blocks(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(2**20), b"")


def _masked_crc(data: bytes) -> bytes:
    """TFRecord's checksum: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def _sync(path: Path) -> None:
    """Has a file or a folder reach the disk before a rename makes it visible."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
