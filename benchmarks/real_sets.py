"""Sets of real pictures, and their division into training and test pictures."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.sources.listing import Entry, folder_entries, table_entries
from components.data.sources.suggestion import suggest
from pipeline.config.config import DataConfig

FOLDS: Final = 5
_FIXED_ABOVE: Final = 2_000  # pictures; a fifth of them is enough for a test
_TABLE: Final = "labels.csv"
_OWN_TEST: Final = "test/"


@dataclass(frozen=True)
class Labelled:
    """A picture of a set.

    Attributes:
      path: of the file.
      name: the path below the set's folder.
      label: in NFC.
      digest: the SHA-256 of the file's bytes, as a number.
    """

    path: Path
    name: str
    label: str
    digest: int


@dataclass(frozen=True)
class Part:
    """The training pictures of one model, ordered by digest, and its test pictures. No file has the same bytes as a file of the other."""

    train: tuple[Labelled, ...]
    test: tuple[Labelled, ...]


@dataclass(frozen=True)
class Division:
    """A set, divided into one part or into folds. `name` is its name in the table."""

    name: str
    parts: tuple[Part, ...]


def divisions(folder: Path) -> list[Division]:
    """Returns the sets in a folder, each divided for training and testing.

    A set is a folder with a labels.csv (columns path and label), or with pictures, also in subfolders, whose names up to the first dot are
    the labels. Only the bytes of a file decide whether it is a test picture. In a set of more than 2,000 pictures, the files whose digest
    is 0 modulo 5 are the test part; a smaller set has five folds, each of which is the test part once. A set with a folder `test` is also
    divided into that folder and the rest, as an additional division with its own name.

    Raises:
      CaptchaPipelineError: the folder does not exist or contains no set, or a table cannot be read.
      OSError: a picture cannot be read.
    """
    if not folder.is_dir():
        raise CaptchaPipelineError(f"Folder {folder} does not exist.")
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if pictures := _pictures(path):
            found += divided(path.name, pictures)
    if not found:
        raise CaptchaPipelineError(f"{folder} contains no folder with labelled pictures.")
    return found


def divided(name: str, pictures: Sequence[Labelled]) -> list[Division]:
    """Returns the pictures of one set, divided as described in `divisions`."""
    count = 1 if len(pictures) > _FIXED_ABOVE else FOLDS
    divided = [Division(name, tuple(_part(pictures, [p for p in pictures if p.digest % FOLDS == fold]) for fold in range(count)))]
    if own := [picture for picture in pictures if picture.name.startswith(_OWN_TEST)]:
        divided.append(Division(f"{name}, its own test part", (_part(pictures, own),)))
    return divided


def first(part: Part, labels: int) -> Part:
    """Returns the part with only the first `labels` training pictures, by digest; the whole part if it has no more."""
    return Part(part.train[:labels], part.test)


def entries_of(pictures: Iterable[Labelled]) -> list[Entry]:
    """Returns the pictures as the entries of an import."""
    return [Entry(picture.path, picture.name, picture.label) for picture in pictures]


def spec_of(train: Sequence[Labelled]) -> CaptchaSpec:
    """Returns the specification that `captcha-pipeline config suggest` proposes for the training pictures.

    Raises:
      CaptchaPipelineError: there are no pictures, or no picture can be decoded.
    """
    suggestions = suggest(entries_of(train), DataConfig().picture_rules)
    return CaptchaSpec(**{key: value for suggestion in suggestions for key, value in suggestion.values.items()})


def _pictures(folder: Path) -> list[Labelled]:
    table = folder / _TABLE
    entries = table_entries(table, outside=False) if table.is_file() else folder_entries(folder, "{label}.*", lambda why, name: None)
    known = Image.registered_extensions()
    return [_labelled(entry) for entry in entries if entry.path.suffix.lower() in known]


def _labelled(entry: Entry) -> Labelled:
    digest = int.from_bytes(hashlib.sha256(entry.path.read_bytes()).digest(), "big")
    return Labelled(entry.path, entry.name, unicodedata.normalize("NFC", entry.label), digest)


def _part(pictures: Sequence[Labelled], test: Sequence[Labelled]) -> Part:
    tested = {picture.digest for picture in test}
    return Part(tuple(sorted((p for p in pictures if p.digest not in tested), key=lambda p: p.digest)), tuple(test))
