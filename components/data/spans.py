"""Spans: the layout of data on disk.

    DATA/span-000001/{train,eval,test}/shard-00000-of-00006.tfrecord.gz, manifest.json, and data_info.csv in the legacy layout

A span appears on disk in one step, when it is complete, and never changes. The manifest has no time and no machine name, so that the same
pictures give the same bytes.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, StringConstraints, ValidationError, model_serializer

from components.base.errors import CaptchaPipelineError
from components.base.features import CORRECTIONS, DRAWN, MANIFEST, PSEUDO, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.tfrecords import Damage, Record, read_records

Layout = Literal["canonical", "book"]
PictureKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]  # of components/data/splits.py, hexadecimal

DROPPED: Final = ".dropped"  # in the data folder: the spans that were dropped
_SPAN: Final = re.compile(r"span-(\d{6,})")


class ShardFile(BaseModel):
    """A file of a span. `path` is relative to the span; `sha256` is the hexadecimal hash of the file on disk, compressed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    records: int
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """The contents of a span, and how it was made.

    `counts` has the number of records of each split, `params["splits"]` the shares of the splits, and `split_rule` the number of the rule
    in components/data/splits.py that assigned the pictures to the splits.

    `supersedes` has the keys of the pictures that the span corrects or removes, or that a model had labelled before: a run that reads the
    span leaves out the records of these pictures in all older spans. The manifest of a span without such pictures does not mention the
    field, so that its bytes, and with them its checksum, are those of earlier releases.
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
    supersedes: tuple[PictureKey, ...] = ()

    @model_serializer(mode="wrap")
    def _without_an_empty_field(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialise(self)
        if not self.supersedes:
            del fields["supersedes"]
        return fields


@dataclass(frozen=True)
class Span:
    """A span on disk: its number, its folder and its manifest."""

    number: int
    path: Path
    manifest: Manifest

    def files(self, split: str) -> list[Path]:
        """Returns the paths of the split's shards, in the order of the manifest."""
        return [self.path / file.path for file in self.manifest.files if file.path.startswith(f"{split}/")]

    @property
    def is_drawn(self) -> bool:
        """Whether the pictures are drawn."""
        return self.manifest.source == DRAWN

    @property
    def is_imported(self) -> bool:
        """Whether the span has pictures of its own that people have labelled. Corrections are of pictures in older spans."""
        return self.manifest.source not in (DRAWN, CORRECTIONS, PSEUDO)

    @property
    def checksum(self) -> str:
        """The hexadecimal SHA-256 of the manifest, which contains the hashes of the files. `sha256sum manifest.json` prints it."""
        return hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()

    def located(self, file: ShardFile) -> Path:
        """Returns the path of a file of the manifest. Raises CaptchaPipelineError if the file is missing."""
        path = self.path / file.path
        if not path.is_file():
            raise CaptchaPipelineError(
                f"The shard {path} is missing; the span's {MANIFEST} lists it. Put it back, or drop the span: "
                f"`captcha-pipeline data drop {self.number}`."
            )
        return path

    def records(self, split: str) -> Iterator[Record | Damage]:
        """Yields the contents of the split's shards, in the order of the manifest.

        Raises:
          CaptchaPipelineError: a shard is missing, or, at the end of the shard, its hash differs from the manifest.
        """
        for file in self.manifest.files:
            if file.path.startswith(f"{split}/"):
                yield from read_records(self.located(file), file.sha256)


def load_span(path: Path) -> Span:
    """Reads the span in a folder.

    Raises:
      CaptchaPipelineError: the folder's name is not that of a span, or its manifest is missing or invalid.
    """
    match = _SPAN.fullmatch(path.name)
    if not match:
        raise CaptchaPipelineError(f"{path} is not a span: its name must have the form span-000001.")
    return Span(int(match[1]), path, read_manifest(path))


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest in a span's folder. Raises CaptchaPipelineError if it is missing, invalid, or names a file outside the span."""
    remedy = f"Put its {MANIFEST} back, or drop the span {path}: `captcha-pipeline data drop`."
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read {path / MANIFEST}: {error.strerror}. {remedy}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise CaptchaPipelineError(f"{path / MANIFEST} is not a valid manifest: {key} {problem['msg']}. {remedy}") from None
    for file in manifest.files:
        # An untrusted manifest must not refer to files outside its span.
        if file.path.partition("/")[0] not in SPLITS or ".." in Path(file.path).parts:
            raise CaptchaPipelineError(f"{path / MANIFEST} names {file.path!r}, which is not in a split of the span. {remedy}")
    return manifest


def list_spans(root: str | Path) -> list[Span]:
    """Returns the spans in a folder, oldest first; [] if the folder does not exist. Raises CaptchaPipelineError like `load_span`."""
    root = Path(root)
    if not root.is_dir():
        return []
    return sorted((load_span(path) for path in root.iterdir() if _SPAN.fullmatch(path.name)), key=lambda span: span.number)


def span_name(number: int) -> str:
    """Returns the folder name of the span with this number."""
    return f"span-{number:06d}"


def span_numbers(root: str | Path) -> set[int]:
    """Returns the numbers of the folders in `root` that have the name of a span."""
    names = [path.name for path in Path(root).iterdir()] if Path(root).is_dir() else []
    return {int(match[1]) for match in map(_SPAN.fullmatch, names) if match}


def next_number(root: str | Path) -> int:
    """Returns the number of the next span: higher than the number of every span, dropped spans included."""
    return 1 + max(span_numbers(root) | span_numbers(Path(root) / DROPPED), default=0)


def describe(root: Path, path: str, records: int) -> ShardFile:
    """Returns the manifest entry for the current file at `path` in the span's folder `root`; with 0 bytes if the file is missing."""
    digest = hashlib.sha256()
    size = 0
    with contextlib.suppress(OSError), open(root / path, "rb") as file:
        for block in _blocks(file):
            digest.update(block)
            size += len(block)
    return ShardFile(path=path, records=records, bytes=size, sha256=digest.hexdigest())


def _blocks(file: Any) -> Iterator[bytes]:
    return iter(lambda: file.read(2**20), b"")
