"""Own pictures with labels, as a new span: a folder, a table, or records in the book's layout.

Labels and pictures are taken as they are; CaptchaExampleGen judges them. The same content gives the same bytes. A picture's
split is decided by its pixels, so one that is imported again in a later span stays in its split.
"""

import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from components.captcha import CaptchaSpec, LabelError
from components.disk import writing_in
from components.errors import CaptchaPipelineError
from components.example_proto import Example
from components.features import DATA_INFO
from components.pictures import PictureError, PictureRules, inspect_picture, visible_pixels
from components.records import (
    DataInfo,
    RecordError,
    book_example,
    book_picture,
    canonical_example,
    to_canonical,
)
from components.sources.known import content_digest
from components.sources.listing import Entry, folder_entries, regular_files, table_entries
from components.sources.span_writer import ShardWriter, new_span, rename_shards, write_manifest
from components.sources.spans import Layout, ShardFile, Span
from components.splits import bytes_key, encoded_split_key, split_key, split_of
from components.tfrecords import Damage, read_records

MAX_FILE_BYTES: Final = 16 * 2**20
DEFAULT_PATTERN: Final = "{label}.*"
_EXAMPLES: Final = 5
_TFRECORD: Final = re.compile(r"(\.records?|tfrecord[^/]*)(\.gz)?$", re.IGNORECASE)


@dataclass(frozen=True)
class ImportPlan:
    """Where an import goes.

    Attributes:
      root: the folder of the spans.
      spec: what the labels and pictures should be.
      splits: the relative size of each split.
      source: the name of the set, which the Evaluator slices by.
      rules: for pictures; in the book's layout, which holds pixels of one size, others are left out.
      shard_size: records a shard, over its three splits.
    """

    root: Path
    spec: CaptchaSpec
    splits: dict[str, int]
    source: str
    rules: PictureRules
    layout: Layout = "canonical"
    shard_size: int = 4_000


@dataclass
class Imported:
    """What came of an import: the span, what was left out and why, and how many of the labels in it the spec refuses.

    `known` counts the pictures that are in a span already.
    """

    span: Span = field(init=False, repr=False)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    refused_labels: list[str] = field(default_factory=list)
    known: int = 0

    def leave_out(self, why: str, where: str) -> None:
        self.left_out[why] += 1
        if len(shown := self.examples.setdefault(why, [])) < _EXAMPLES:
            shown.append(where)

    def describe(self) -> str:
        """Returns a line for each reason, with the first few that it concerns."""
        return "\n".join(
            f"{count:,} left out: {why}: {', '.join(self.examples[why])}{' …' if count > _EXAMPLES else ''}"
            for why, count in self.left_out.most_common()
        )


Progress = Callable[[int, int | None], None]  # records read so far, and of how many where that is known


class NothingNew(CaptchaPipelineError):
    """All that could be imported is in a span already."""


def import_folder(
    folder: str | Path, pattern: str, plan: ImportPlan, progress: Progress | None = None, known: Set[bytes] = frozenset()
) -> Imported:
    """Imports the pictures in a folder and its subfolders, whose names hold the labels.

    Args:
      folder: links in it that lead out of it are not followed.
      pattern: the name, in which `{label}` stands for the label (the shortest text that fits) and `*` for any text, such as
        `{label}_*`. With a `/` it is compared with the path below the folder, such as `{label}/*.png`.
      plan: where to.
      progress: is called after each picture.
      known: what is not to be imported again, see components.sources.known.

    Raises:
      NothingNew: there are pictures, and all are known.
      CaptchaPipelineError: no file matches, no label is right, or nothing could be imported.
    """
    result = Imported()
    entries = list(folder_entries(Path(folder), pattern, result.leave_out))
    if not entries:
        raise CaptchaPipelineError(
            f"No picture in {folder} could be imported with --pattern '{pattern}'.\n{result.describe() or 'The folder is empty.'}\n"
            "Write the file name with {label} in the label's place and * for any text, such as '{label}_*'."
        )
    return _import_pictures(entries, plan, result, progress, f"Does {pattern} fit the file names?", known)


def import_table(table: str | Path, plan: ImportPlan, progress: Progress | None = None) -> Imported:
    """Imports the pictures that a .csv or .jsonl file lists in `path` and `label`; paths are relative to its folder.

    Raises:
      CaptchaPipelineError: the table is not right, no label is right, or nothing could be imported.
    """
    table = Path(table)
    entries = list(table_entries(table))
    if not entries:
        raise CaptchaPipelineError(f"{table} lists no pictures. Give it a row with path and label for each.")
    return _import_pictures(entries, plan, Imported(), progress, f"Does {table} hold the labels in its column label?", frozenset())


def import_book(path: str | Path, plan: ImportPlan, progress: Progress | None = None) -> Imported:
    """Imports records in the book's layout: a folder with data_info.csv and TFRecord files, or one such file beside it.

    Records that are not right are left out where they are converted, and copied for CaptchaExampleGen to judge where not.

    Raises:
      CaptchaPipelineError: data_info.csv is missing or not right, there are no TFRecord files, or nothing could be imported.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    info = DataInfo.load(folder / DATA_INFO)
    result = Imported()
    found = regular_files(folder, result.leave_out) if path.is_dir() else [(path, path.name)]
    files = [(file, name) for file, name in found if _TFRECORD.search(name)]
    if not files:
        raise CaptchaPipelineError(f"{folder} has {DATA_INFO}, but no TFRecord files (such as train.tfrecord) beside it.")
    records = _book_records(files, info, plan, result, progress)
    return _write(records, plan, result, info if plan.layout == "book" else None)


def _book_records(
    files: list[tuple[Path, str]], info: DataInfo, plan: ImportPlan, result: Imported, progress: Progress | None
) -> Iterator[tuple[bytes, bytes]]:
    read = 0
    for file, name in files:
        for item in read_records(file):
            read += 1
            if progress:
                progress(read, None)
            if isinstance(item, Damage):
                result.leave_out(item.reason, f"{name}, record {item.index} ({item.detail})")
                continue
            key = bytes_key(item.data)
            try:
                example = Example.FromString(item.data)
                key = split_key(visible_pixels(book_picture(example, info), plan.rules.background))
                if plan.layout == "canonical":
                    yield key, to_canonical(example, info, plan.spec, plan.source).SerializeToString(deterministic=True)
                    continue
            except (DecodeError, RecordError) as error:
                if plan.layout == "canonical":
                    reason = error.reason if isinstance(error, RecordError) else "record_unparseable"
                    result.leave_out(reason, f"{name}, record {item.index} ({error})")
                    continue
            yield key, item.data


def _import_pictures(
    entries: list[Entry], plan: ImportPlan, result: Imported, progress: Progress | None, question: str, known: Set[bytes]
) -> Imported:
    entries = sorted(entries, key=lambda entry: entry.name)
    for entry in entries:
        try:
            plan.spec.canonical(entry.label)
        except LabelError as error:
            result.refused_labels.append(f"{entry.name}: {error}")
    if len(result.refused_labels) == len(entries):
        raise CaptchaPipelineError(
            f"None of the {len(entries):,} labels is as the configuration says, for example {result.refused_labels[0]}.\n"
            f"{question} Do captcha.charset and captcha.length?"
        )
    return _write(_picture_records(entries, plan, result, progress, known), plan, result, None)


def _picture_records(
    entries: list[Entry], plan: ImportPlan, result: Imported, progress: Progress | None, known: Set[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    for read, entry in enumerate(entries, start=1):
        if progress:
            progress(read, len(entries))
        data = _read(entry, result)
        if data is None:
            continue
        if known and content_digest(entry.label.encode(), data) in known:
            result.known += 1
            continue
        key = encoded_split_key(data, plan.rules)
        if plan.layout == "canonical":
            record = canonical_example(data, entry.label, plan.source, {"file": entry.name})
        else:
            try:
                record = book_example(_pixels(data, plan), entry.label, plan.spec)
            except (LabelError, PictureError) as error:
                result.leave_out(error.reason, f"{entry.name} ({error})")
                continue
        yield key, record.SerializeToString(deterministic=True)


def _read(entry: Entry, result: Imported) -> bytes | None:
    try:
        (entry.name + entry.label).encode()
        if not entry.path.is_file():  # a pipe or a device would never end
            result.leave_out("there is no such file", entry.name)
            return None
        with open(entry.path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except UnicodeEncodeError:
        result.leave_out("its name or label is not Unicode text", ascii(entry.name))
        return None
    except OSError as error:
        result.leave_out(f"it cannot be read: {error.strerror}", entry.name)
        return None
    if len(data) > MAX_FILE_BYTES:
        result.leave_out(f"it is larger than {MAX_FILE_BYTES // 2**20} MiB", entry.name)
        return None
    return data


def _pixels(data: bytes, plan: ImportPlan) -> np.ndarray:
    picture = inspect_picture(data, plan.spec, plan.rules)
    if (picture.width, picture.height) != (plan.spec.width, plan.spec.height):
        raise PictureError("image_size", f"{picture.width}x{picture.height} pixels; the book's layout holds one size")
    with Image.open(io.BytesIO(picture.encoded)) as image:
        pixels = np.asarray(image.convert("RGB" if plan.spec.channels == 3 else "L"))
    return pixels.reshape(plan.spec.height, plan.spec.width, plan.spec.channels)


def _write(records: Iterable[tuple[bytes, bytes]], plan: ImportPlan, result: Imported, info: DataInfo | None) -> Imported:
    """Writes pairs of split key and serialised example as a span."""
    making = new_span(plan.root)
    with writing_in(plan.root), making as draft:
        files = _write_shards(iter(records), plan, draft)
        if not files and result.known:
            raise NothingNew("All pictures are in a span already.")
        if not files:
            raise CaptchaPipelineError(f"Nothing could be imported.\n{result.describe()}".rstrip())
        if plan.layout == "book":
            (info or DataInfo.for_spec(plan.spec)).save(draft / DATA_INFO)
        params = {"splits": plan.splits, "shard_size": plan.shard_size, "background": plan.rules.background}
        write_manifest(draft, layout=plan.layout, spec=plan.spec, seed=None, source=plan.source, params=params, files=files)
    result.span = making.span
    return result


def _write_shards(records: Iterator[tuple[bytes, bytes]], plan: ImportPlan, draft: Path) -> list[ShardFile]:
    files: list[ShardFile] = []
    shards = 0
    # The number of shards, which is part of their names, is known at the end.
    while (first := next(records, None)) is not None:
        with ShardWriter(draft, f"shard-{shards:05d}", plan.layout) as writer:
            for key, record in itertools.islice(itertools.chain([first], records), plan.shard_size):
                writer.write(split_of(key, plan.splits), record)
        files += writer.files
        shards += 1
    return rename_shards(draft, files, shards)
