"""Spans: how data lies on disk.

    DATA/span-000001/{train,eval,test}/shard-00000-of-00006.tfrecord.gz, manifest.json, and data_info.csv in the legacy layout

A span is there whole or not at all, and never changes. The manifest holds no time and no name of a machine, so the same
pictures give the same bytes.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.base.errors import CaptchaPipelineError
from components.base.features import MANIFEST, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.tfrecords import Damage, Record, read_records

Layout = Literal["canonical", "book"]

DROPPED: Final = ".dropped"  # in the data folder: the spans that were moved aside
_SPAN: Final = re.compile(r"span-(\d{6,})")


class ShardFile(BaseModel):
    """A file of a span; `path` is relative to the span, `sha256` is of the file as it lies on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    records: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a span holds and how it was made.

    `counts` gives the records of each split, `params["splits"]` the shares of the splits, and `split_rule` the rule by which pictures were
    put into them: the number of one in components/data/splits.py.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout
    spec: CaptchaSpec
    seed: int | None
    source: str
    split_rule: int = 1
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

    def located(self, file: ShardFile) -> Path:
        """Returns where a file of the manifest lies. Raises CaptchaPipelineError if it is missing."""
        path = self.path / file.path
        if not path.is_file():
            raise CaptchaPipelineError(
                f"The shard {path} is missing; the span's {MANIFEST} lists it. Put it back, or move the span aside: "
                f"`captcha-pipeline data drop {self.number}`."
            )
        return path

    def records(self, split: str) -> Iterator[Record | Damage]:
        """Yields what is in the split's shards, in their order.

        Raises:
          CaptchaPipelineError: a shard is missing, or, once it has been read to its end, not as the manifest says.
        """
        for file in self.manifest.files:
            if file.path.startswith(f"{split}/"):
                yield from read_records(self.located(file), file.sha256)


def load_span(path: Path) -> Span:
    """Reads the span in a folder.

    Raises:
      CaptchaPipelineError: the folder is not named like a span, or its manifest is missing or not right.
    """
    match = _SPAN.fullmatch(path.name)
    if not match:
        raise CaptchaPipelineError(f"{path} is not a span: its name must be like span-000001.")
    return Span(int(match[1]), path, read_manifest(path))


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest in a span's folder. Raises CaptchaPipelineError when it is missing, not right, or names a file outside."""
    remedy = f"Put its {MANIFEST} back, or move {path} aside: `captcha-pipeline data drop`."
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


def span_numbers(root: str | Path) -> set[int]:
    """Returns the numbers of the folders in `root` that are named like spans."""
    names = [path.name for path in Path(root).iterdir()] if Path(root).is_dir() else []
    return {int(match[1]) for match in map(_SPAN.fullmatch, names) if match}


def next_number(root: str | Path) -> int:
    """Returns the number that the next span will get: higher than that of every span, those that were dropped included."""
    return 1 + max(span_numbers(root) | span_numbers(Path(root) / DROPPED), default=0)


@dataclass(frozen=True)
class Window:
    """The spans that a run reads: `spans`, oldest first, to train and to be judged by, and `golden`, to be judged by in any case."""

    spans: tuple[Span, ...]
    golden: Span | None

    @property
    def digest(self) -> str:
        """A hexadecimal SHA-256 over the numbers and manifests, and so over the contents, of all of them."""
        digest = hashlib.sha256()
        for span in self._all:
            digest.update(f"{span.number} {span.manifest.model_dump_json()}\n".encode())
        return digest.hexdigest()

    @property
    def as_of(self) -> str:
        """A hexadecimal SHA-256 over `digest` and the sizes and times of the shards.

        It changes where a shard was replaced or removed, although the manifest stays, and where one was only touched: no shard is read
        for it.
        """
        digest = hashlib.sha256(self.digest.encode())
        for path in (span.path / file.path for span in self._all for file in span.manifest.files):
            digest.update(_state(path).encode() + b"\n")
        return digest.hexdigest()

    @property
    def _all(self) -> tuple[Span, ...]:
        return (*self.spans, *([self.golden] if self.golden else []))


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


def window_as_of(as_of: str, root: str | Path, n: int | None, exclude: Iterable[int] = (), golden: int | None = None) -> Window:
    """Returns the window that has this `as_of`, whatever spans have come since it was looked at; what is there now for "".

    Raises:
      CaptchaPipelineError: a span of it is gone or another since, or as `window`.
    """
    there = window(root, n, exclude, golden)
    later: set[int] = set()
    while as_of and there.as_of != as_of:
        later.add(there.spans[-1].number)
        try:
            there = window(root, n, {*exclude, *later}, golden)
        except CaptchaPipelineError:
            raise CaptchaPipelineError(f"A span in {root} was removed or changed after the run began. Start the run again.") from None
    return there


def _state(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def describe(root: Path, path: str, records: int) -> ShardFile:
    """Returns what the manifest says of the file at `path` in the span's folder `root`, as the file is now; of a missing one, no bytes."""
    digest = hashlib.sha256()
    size = 0
    with contextlib.suppress(OSError), open(root / path, "rb") as file:
        for block in _blocks(file):
            digest.update(block)
            size += len(block)
    return ShardFile(path=path, records=records, bytes=size, sha256=digest.hexdigest())


def _blocks(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(2**20), b"")
