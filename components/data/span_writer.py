"""Makes a span: writes the shards and the manifest into a hidden folder, which becomes the span in one step."""

import contextlib
import gzip
import io
import shutil
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import google_crc32c

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.features import MANIFEST, SPLITS
from components.base.files import locked, publish, sync
from components.data.captcha_spec import CaptchaSpec
from components.data.spans import (
    DROPPED,
    Layout,
    Manifest,
    ShardFile,
    Span,
    describe,
    next_number,
    read_manifest,
    span_name,
    span_numbers,
)
from components.data.splits import SPLIT_RULE

_DRAFT: Final = ".draft-"
_LOCK: Final = ".lock"
# Raw pixels shrink to a third. Encoded pictures hardly shrink: level 1 would save 5 % of the bytes and cost 7 % of the time to draw them.
_GZIP_LEVEL: Final[dict[str, int]] = {"canonical": 0, "book": 6}
_BUFFER: Final = 2**18  # bytes; GzipFile takes as long for a small write as for a large one


def lock_data(root: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of a data folder. A process that has to wait for the lock says so on standard error."""
    return locked(root / _LOCK, waiting=f"Waiting for process {{}}, which is working in {root} …")


class new_span:
    """Makes a span in one step: `with new_span(root) as path:` gives a hidden folder to write in.

    On success the folder, which must then have a manifest, becomes the next span. On an error or Ctrl-C the folder is deleted. Only one
    process at a time makes a span in a data folder; other processes wait and say so.

    Attributes:
      span: the new span; set on success.
    """

    span: Span

    def __init__(self, root: str | Path):
        self._root = Path(root)
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Path:
        self._draft = self._root / f"{_DRAFT}{uuid.uuid4().hex}"
        try:
            self._resources.enter_context(lock_data(self._root))
            # Only the process that holds the lock has a draft: these are from killed processes.
            for abandoned in self._root.glob(f"{_DRAFT}*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            self._draft.mkdir()
        except OSError as error:
            self._resources.close()
            raise CaptchaPipelineError(
                f"Cannot write in {self._root}: {error.strerror}. Choose another folder with --set data.root=FOLDER."
            ) from None
        return self._draft

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._resources:
            try:
                if kind is None:
                    self.span = self._publish()
            finally:
                shutil.rmtree(self._draft, ignore_errors=True)

    def _publish(self) -> Span:
        manifest = read_manifest(self._draft)
        number = next_number(self._root)
        target = self._root / span_name(number)
        publish(self._draft, target)
        return Span(number, target, manifest)


def drop_span(root: Path, number: int) -> Path:
    """Moves a span out of use, even a damaged one, and returns its new path. Nothing is deleted, and no other span gets its number.

    Args:
      root: the data folder.
      number: of the span.

    Raises:
      CaptchaPipelineError: the data folder or the span does not exist, the new path exists already, or the folder cannot be written.
    """
    span = root / span_name(number)
    aside = root / DROPPED / span.name
    if not root.is_dir():
        raise CaptchaPipelineError(f"The data folder {root} does not exist.")
    with writing_in(root), lock_data(root):
        if not span.is_dir():
            there = ", ".join(map(str, sorted(span_numbers(root)))) or "none"
            raise CaptchaPipelineError(f"Span {number} does not exist in {root}; its spans: {there}.")
        if aside.exists():
            raise CaptchaPipelineError(f"{aside} already exists. Move it elsewhere first.")
        aside.parent.mkdir(exist_ok=True)
        span.rename(aside)
        sync(aside.parent)
        sync(root)
    return aside


class ShardWriter:
    """Writes one shard of each split as gzipped TFRecords. The bytes of the files depend only on the records.

    Args:
      root: the folder of the span.
      name: of the shard's file, without its suffix.
      layout: of the records.

    Attributes:
      files: the manifest's entries for the files; set when the writer is closed.
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
            # No time and no name in the gzip header: they would differ from run to run.
            zipped = self._open.enter_context(gzip.GzipFile("", "wb", _GZIP_LEVEL[self._layout], raw, mtime=0))
            self._writers[split] = self._open.enter_context(io.BufferedWriter(zipped, _BUFFER))
        return self

    def write(self, split: str, record: bytes) -> None:
        """Adds a record to the shard of a split."""
        length = struct.pack("<Q", len(record))
        self._writers[split].write(b"".join((length, _masked_crc(length), record, _masked_crc(record))))
        self._counts[split] += 1

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self.files = [describe(self._root, f"{split}/{self._name}", count) for split, count in self._counts.items()]


def rename_shards(root: Path, files: list[ShardFile], shards: int) -> list[ShardFile]:
    """Renames the files of `shards` shards from `shard-00000` and so on to `shard-00000-of-00006`. Returns their manifest entries."""
    renamed = []
    for file in files:
        path = file.path.replace(".tfrecord.gz", f"-of-{shards:05d}.tfrecord.gz")
        (root / file.path).rename(root / path)
        renamed.append(file.model_copy(update={"path": path}))
    return renamed


def _masked_crc(data: bytes) -> bytes:
    """Returns the checksum that TFRecord uses: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def write_manifest(
    path: Path,
    *,
    layout: Layout,
    spec: CaptchaSpec,
    seed: int | None,
    source: str,
    params: dict[str, Any],
    files: list[ShardFile],
    supersedes: Sequence[str] = (),
) -> Manifest:
    """Writes the manifest of the span in the folder `path` and returns it."""
    files = sorted(files, key=lambda file: (SPLITS.index(file.path.partition("/")[0]), file.path))
    counts = {split: sum(file.records for file in files if file.path.startswith(f"{split}/")) for split in SPLITS}
    manifest = Manifest(
        layout=layout,
        spec=spec,
        seed=seed,
        source=source,
        split_rule=SPLIT_RULE,
        params=params,
        counts=counts,
        files=tuple(files),
        supersedes=tuple(supersedes),
    )
    (path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest
