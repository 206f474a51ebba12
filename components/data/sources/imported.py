"""Imports labelled pictures into a new span, from a folder, a table, or records in the legacy layout.

Labels and pictures are imported unchanged; CaptchaExampleGen checks them. With the same spans present, the same input gives the same bytes.
The split of a picture depends on its pixels, or on the split of a picture that it looks like (components/data/sources/sift.py).
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.base.features import CORRECTIONS, DATA_INFO, DRAWN, PSEUDO
from components.data.captcha_spec import LabelError
from components.data.example_proto import Example
from components.data.legacy_layout import DataInfo, legacy_example, to_canonical
from components.data.pictures import PictureError, inspect_picture
from components.data.records import RecordError, canonical_example
from components.data.sources.index import Progress
from components.data.sources.listing import Entry, folder_entries, regular_files, table_entries
from components.data.sources.outcome import Imported
from components.data.sources.seen import FILE, of_encoded, of_legacy
from components.data.sources.sift import ImportPlan, Item, label_problem, save
from components.data.tfrecords import Damage, read_records

MAX_FILE_BYTES: Final = 16 * 2**20  # larger picture files are left out
_IMPORTING: Final = "Importing"
_TFRECORD: Final = re.compile(r"(\.records?|tfrecord[^/]*)(\.gz)?$", re.IGNORECASE)


def source_name(given: str, path: Path) -> str:
    """Returns the name of the source of an import.

    Args:
      given: the name that the user gave; "" to use the name of the file or folder.
      path: the file or folder that is imported.

    Raises:
      CaptchaPipelineError: the name is reserved for spans that the pipeline makes itself.
    """
    name = given or path.resolve().stem or "folder"
    if name in (DRAWN, PSEUDO, CORRECTIONS):
        raise CaptchaPipelineError(f"The source name {name!r} is reserved for spans that the pipeline makes itself. Choose another name.")
    return name


def import_folder(folder: str | Path, pattern: str, plan: ImportPlan, progress: Progress | None = None) -> Imported:
    """Imports the pictures in a folder and its subfolders. The file names contain the labels.

    Args:
      folder: links that lead out of it are not followed.
      pattern: of the file names. `{label}` stands for the label (the shortest text that fits) and `*` for any text, such as `{label}_*`. A
        pattern with a `/` is compared with the path below the folder, such as `{label}/*.png`.
      plan: the target of the import.
      progress: called after each picture.

    Raises:
      NothingNew: every picture is already in a span, and the plan leaves such pictures out.
      CaptchaPipelineError: the folder does not exist, the pattern is invalid, no file matches, no label is valid, or nothing could be
        imported.
    """
    result = Imported()
    entries = list(folder_entries(Path(folder), pattern, result.leave_out))
    if not entries:
        raise CaptchaPipelineError(
            f"No picture in {folder} could be imported with --pattern '{pattern}'.\n{result.describe() or 'The folder is empty.'}\n"
            "Write the pattern as a file name with {label} in place of the label and * for any text, such as '{label}_*'."
        )
    return _import_pictures(entries, plan, result, progress, f"Does {pattern} match the file names?")


def import_table(table: str | Path, plan: ImportPlan, progress: Progress | None = None, outside: bool = False) -> Imported:
    """Imports the pictures that a .csv or .jsonl file lists in its columns `path` and `label`.

    Args:
      table: the file. Paths in it are relative to its folder.
      plan: the target of the import.
      progress: called after each picture.
      outside: whether to import pictures outside the table's folder. An untrusted table could name any file.

    Raises:
      NothingNew: every picture is already in a span, and the plan leaves such pictures out.
      CaptchaPipelineError: the table is invalid, no label is valid, or nothing could be imported.
    """
    table = Path(table)
    entries = list(table_entries(table, outside))
    if not entries:
        raise CaptchaPipelineError(f"{table} lists no pictures. Add a row with path and label for each picture.")
    return _import_pictures(entries, plan, Imported(), progress, f"Does {table} have the labels in its column label?")


def import_legacy(path: str | Path, plan: ImportPlan, progress: Progress | None = None) -> Imported:
    """Imports records in the legacy layout.

    If the layout of the plan is canonical, records are converted, and bad records are left out. If it is the legacy layout, all records are
    copied, even bad ones, because CaptchaExampleGen checks them. Damaged records are left out in both cases.

    Args:
      path: a folder with data_info.csv and TFRecord files, or a TFRecord file next to data_info.csv.
      plan: the target of the import.
      progress: called after each record.

    Raises:
      NothingNew: every picture is already in a span, and the plan leaves such pictures out.
      CaptchaPipelineError: data_info.csv is missing or invalid, there are no TFRecord files, or nothing could be imported.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    info = DataInfo.load(folder / DATA_INFO)
    result = Imported()
    found = regular_files(folder, result.leave_out) if path.is_dir() else [(path, path.name)]
    files = [(file, name) for file, name in found if _TFRECORD.search(name)]
    if not files:
        raise CaptchaPipelineError(f"{folder} has {DATA_INFO}, but no TFRecord files (such as train.tfrecord) next to it.")
    return save(_legacy_items(files, info, plan, result, progress), plan, result, info if plan.layout == "book" else None, progress)


def _legacy_items(
    files: list[tuple[Path, str]], info: DataInfo, plan: ImportPlan, result: Imported, progress: Progress | None
) -> Iterator[Item]:
    read = 0
    for file, name in files:
        for item in read_records(file):
            read += 1
            if progress:
                progress(_IMPORTING, read, None)
            where = f"{name}, record {item.index}"
            if isinstance(item, Damage):
                result.leave_out(item.reason, f"{where} ({item.detail})")
                continue
            try:
                example = Example.FromString(item.data)
                seen = of_legacy(example, info, plan.spec, where, plan.rules)
            except (DecodeError, RecordError) as error:
                if plan.layout == "book":
                    yield Item(item.data, None)
                else:
                    result.leave_out(error.reason if isinstance(error, RecordError) else "record_unparseable", f"{where} ({error})")
                continue
            record = item.data
            if plan.layout == "canonical":
                record = to_canonical(example, info, plan.spec, plan.source).SerializeToString(deterministic=True)
            yield Item(record, seen)


def import_entries(entries: list[Entry], plan: ImportPlan, result: Imported, progress: Progress | None = None) -> Imported:
    """Imports pictures from a list.

    Args:
      entries: the pictures and their labels.
      plan: the target of the import.
      result: filled in, and returned.
      progress: called before each picture is read.

    Raises:
      NothingNew: every picture is already in a span, and the plan leaves such pictures out.
      CaptchaPipelineError: nothing could be imported.
    """
    return save(_picture_items(entries, plan, result, progress), plan, result, None, progress)


def read_entry(entry: Entry, result: Imported) -> bytes | None:
    """Returns the bytes of a picture file. A file that is missing, unreadable or larger than MAX_FILE_BYTES is left out.

    Args:
      entry: the file.
      result: a note says in it why the file is left out.

    Returns:
      None if the file is left out.
    """
    try:
        (entry.name + entry.label).encode()
        if not entry.path.is_file():  # reading a pipe or a device would never end
            result.leave_out("it does not exist or is not a file", entry.name)
            return None
        if entry.inside and not entry.path.resolve().is_relative_to(entry.inside):
            result.leave_out("its path leads out of the table's folder (--outside imports it)", entry.name)
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


def picture_item(data: bytes, label: str, name: str, plan: ImportPlan, result: Imported) -> Item | None:
    """Returns the item of a labelled picture, in the layout of the plan.

    Args:
      data: an encoded picture of at most MAX_FILE_BYTES. It is not checked, except for the legacy layout, which stores pixels.
      label: its text, as it was given.
      name: the name of its file, for messages, and to find the file again.
      plan: the target of the import.
      result: a note says in it why the picture is left out.

    Returns:
      None if the picture is left out.
    """
    if plan.layout == "canonical":
        record = canonical_example(data, label, plan.source, {FILE: name})
    else:
        try:
            record = legacy_example(_pixels(data, plan), label, plan.spec)
        except (LabelError, PictureError) as error:
            result.leave_out(error.reason, f"{name} ({error})")
            return None
    return Item(record.SerializeToString(deterministic=True), of_encoded(data, label, name, plan.rules))


def _import_pictures(entries: list[Entry], plan: ImportPlan, result: Imported, progress: Progress | None, question: str) -> Imported:
    entries = sorted(entries, key=lambda entry: entry.name)
    problems = [label_problem(entry.label, plan.spec) for entry in entries]
    if all(problems):
        raise CaptchaPipelineError(
            f"No label matches captcha.charset and captcha.length. The first of {len(entries):,} is {entries[0].name}: {problems[0]}.\n"
            f"{question} Do captcha.charset and captcha.length match the labels?"
        )
    return import_entries(entries, plan, result, progress)


def _picture_items(entries: list[Entry], plan: ImportPlan, result: Imported, progress: Progress | None) -> Iterator[Item]:
    for read, entry in enumerate(entries, start=1):
        if progress:
            progress(_IMPORTING, read, len(entries))
        data = read_entry(entry, result)
        if data is not None and (item := picture_item(data, entry.label, entry.name, plan, result)):
            yield item


def _pixels(data: bytes, plan: ImportPlan) -> np.ndarray:
    picture = inspect_picture(data, plan.spec, plan.rules)
    if (picture.width, picture.height) != (plan.spec.width, plan.spec.height):
        raise PictureError("image_size", f"{picture.width}x{picture.height} pixels; the legacy layout has pictures of one size")
    with Image.open(io.BytesIO(picture.encoded)) as image:
        pixels = np.asarray(image.convert("RGB" if plan.spec.channels == 3 else "L"))
    return pixels.reshape(plan.spec.height, plan.spec.width, plan.spec.channels)
