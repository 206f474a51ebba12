"""Sets of real pictures, and the parts of them to train and to test with."""

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
_FIXED_ABOVE: Final = 2_000  # pictures; a fifth of so many are enough to test with
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
    """What one model is trained with, in the order of the digests, and what it is tested with. No file's bytes are in both."""

    train: tuple[Labelled, ...]
    test: tuple[Labelled, ...]


@dataclass(frozen=True)
class Division:
    """A set divided into one part or into folds, under the name that a table has for it."""

    name: str
    parts: tuple[Part, ...]


def divisions(folder: Path) -> list[Division]:
    """Returns the sets in a folder, each divided for training and testing.

    A set is a folder with a labels.csv (columns path and label), or else with pictures, in subfolders too, whose names up to the first
    dot are the labels. Which file is tested with depends on its bytes alone: in a set of more than 2,000 pictures those whose digest is 0
    modulo 5, in a smaller one each of five folds in turn. A set with a folder `test` is divided that way as well, under a name of its own.

    Raises:
      CaptchaPipelineError: there is no such folder, no set in it, or a table cannot be read.
      OSError: a picture cannot be read.
    """
    if not folder.is_dir():
        raise CaptchaPipelineError(f"There is no folder {folder}.")
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if pictures := _pictures(path):
            found += divided(path.name, pictures)
    if not found:
        raise CaptchaPipelineError(f"{folder} holds no folder with labelled pictures.")
    return found


def divided(name: str, pictures: Sequence[Labelled]) -> list[Division]:
    """Returns the pictures of one set divided as `divisions` says."""
    count = 1 if len(pictures) > _FIXED_ABOVE else FOLDS
    divided = [Division(name, tuple(_part(pictures, [p for p in pictures if p.digest % FOLDS == fold]) for fold in range(count)))]
    if own := [picture for picture in pictures if picture.name.startswith(_OWN_TEST)]:
        divided.append(Division(f"{name}, its own test part", (_part(pictures, own),)))
    return divided


def first(part: Part, labels: int) -> Part:
    """Returns the part with only the first pictures to train with, by their digests; the whole part if it has no more."""
    return Part(part.train[:labels], part.test)


def entries_of(pictures: Iterable[Labelled]) -> list[Entry]:
    """Returns the pictures as an import has them."""
    return [Entry(picture.path, picture.name, picture.label) for picture in pictures]


def spec_of(train: Sequence[Labelled]) -> CaptchaSpec:
    """Returns what `captcha-pipeline config suggest` says of the pictures to train with.

    Raises:
      CaptchaPipelineError: there are none, or none can be decoded.
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
