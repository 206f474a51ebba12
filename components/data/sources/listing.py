"""Lists the pictures of an import and their labels, from file names or from a table."""

import contextlib
import csv
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from components.base.errors import CaptchaPipelineError

TABLES: Final = (".csv", ".jsonl")
PATH: Final = "path"  # the column with the paths of the pictures
_LABEL: Final = "label"

LeaveOut = Callable[[str, str], None]  # takes the reason and the name of the file


@dataclass(frozen=True)
class Entry:
    """A picture to import.

    Attributes:
      path: of the file.
      name: the path relative to the folder, or the path as written in the table.
      label: the label as written in the file name or the table.
      inside: a folder, with links resolved, outside which the file must not be, once its own links are resolved; None for no restriction.
    """

    path: Path
    name: str
    label: str
    inside: Path | None = None


def folder_entries(folder: Path, pattern: str, leave_out: LeaveOut) -> Iterator[Entry]:
    """Yields the files below a folder whose names match a pattern.

    Args:
      folder: links that lead out of it are not followed.
      pattern: as for `components.data.sources.imported.import_folder`.
      leave_out: called for each file that is left out.

    Raises:
      CaptchaPipelineError: the folder does not exist, or the pattern does not contain `{label}` exactly once.
    """
    matcher = _matcher(pattern)
    for path, name in regular_files(folder, leave_out):
        match = matcher.fullmatch(name if "/" in pattern else PurePosixPath(name).name)
        if match:
            yield Entry(path, name, match["label"])
        else:
            leave_out(f"the name does not match {pattern}", name)


def table_entries(table: Path, outside: bool) -> Iterator[Entry]:
    """Yields an entry for each row of a .csv or .jsonl file, from its `path` and `label`, in the order of the rows.

    Args:
      table: the file.
      outside: whether the pictures may be outside the folder of the table.

    Raises:
      CaptchaPipelineError: the table cannot be read, or a row is invalid.
    """
    inside = None if outside else table.parent.resolve()
    for _, name, label in table_rows(table, (PATH,)):
        yield Entry(table.parent / name, name, label, inside)


def table_rows(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yields three values for each row of a .csv or .jsonl file: the column that names the picture, the name in it, and the label.

    Args:
      table: the file.
      columns: the columns that may name a picture. Of several in the table, the first in this order is used.

    Raises:
      CaptchaPipelineError: the table cannot be read, or a row is invalid.
    """
    rows = _csv_rows if table.suffix.lower() == ".csv" else _jsonl_rows
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            yield from rows(table, file, columns)
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read {table}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise CaptchaPipelineError(f"{table} is not in UTF-8. Save it as UTF-8 text.") from None


def _matcher(pattern: str) -> re.Pattern[str]:
    if pattern.count("{label}") != 1:
        raise CaptchaPipelineError(f"--pattern '{pattern}' must contain {{label}} once, in place of the label, such as '{{label}}_*'.")
    parts = re.split(r"(\{label\}|\*)", pattern)
    return re.compile("".join({"{label}": "(?P<label>[^/]+?)", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts))


def regular_files(folder: Path, leave_out: LeaveOut) -> Iterator[tuple[Path, str]]:
    """Yields the regular files below a folder and their paths relative to it, sorted by these paths. Hidden files and folders are skipped.

    Args:
      folder: links that lead out of it are not followed.
      leave_out: called for each file, or folder that cannot be read, that is left out for another reason.

    Raises:
      CaptchaPipelineError: the folder does not exist.
    """
    if not folder.is_dir():
        raise CaptchaPipelineError(f"The folder {folder} does not exist.")
    found = []

    def unreadable(error: OSError) -> None:
        leave_out("the folder cannot be read", Path(error.filename).relative_to(folder).as_posix())

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    inside = folder.resolve()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in found):
        try:
            name.encode()
        except UnicodeEncodeError:
            leave_out("the name is not UTF-8", ascii(name))
            continue
        try:
            is_file = path.is_file()
            is_inside = is_file and path.resolve().is_relative_to(inside)
        except OSError:  # the folder shows its names, but lets nobody open its files
            leave_out("the folder cannot be read", name)
            continue
        if not is_file:
            leave_out("it is not a file", name)
        elif not is_inside:
            leave_out("it is a link that leads out of the folder", name)
        else:
            yield path, name


def _csv_rows(table: Path, file: Any, columns: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    reader = csv.DictReader(file)
    named = [column for column in columns if column in (reader.fieldnames or ())][:1]
    either = " or ".join(columns)
    missing = [*([] if named else [either]), *([] if _LABEL in (reader.fieldnames or ()) else [_LABEL])]
    if missing:
        raise CaptchaPipelineError(f"{table} lacks the column {' and '.join(missing)}; its first row must name {either} and {_LABEL}.")
    (column,) = named
    try:
        for row in reader:
            if row[column] is None or row[_LABEL] is None:
                raise CaptchaPipelineError(f"{table}, line {reader.line_num}: the row is too short; it needs {column} and {_LABEL}.")
            yield column, row[column], row[_LABEL]
    except csv.Error as error:
        raise CaptchaPipelineError(f"{table}, line {reader.line_num}: {error}.") from None


def _jsonl_rows(table: Path, file: Any, columns: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for number, line in enumerate(file, start=1):
        row: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line) if line.strip() else {}
        if row == {}:
            continue
        named = [column for column in columns if isinstance(row, dict) and isinstance(row.get(column), str)]
        # A label such as 0042 must be a string: as a number it would lose its zeros.
        if not named or not isinstance(row.get(_LABEL), str):
            example = f'{{"path": "a.png", "{_LABEL}": "0042"}}'
            raise CaptchaPipelineError(
                f"{table}, line {number}: write an object with {' or '.join(columns)} and {_LABEL}, both strings, such as {example}."
            )
        yield named[0], row[named[0]], row[_LABEL]
