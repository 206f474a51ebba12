"""An index of the pictures in all spans: an import finds known pictures in it without reading all spans again.

The index is the file DATA/.index.sqlite. It is a cache: it can be deleted at any time, and a damaged index is built again. Before each use
it is brought up to date, by the number of each span and the checksum of its manifest, so spans may be removed, replaced and restored.
SQLite comes with Python, leaves no transaction half done after a kill, and finds a picture among millions without loading them all. Only a
process that holds the lock of the data folder writes to the index.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from components.base.features import DATA_INFO, PSEUDO, SPLITS
from components.data.legacy_layout import DataInfo
from components.data.likeness import MAX_DISTANCE, bands, distance
from components.data.pictures import PictureRules
from components.data.sources.seen import Seen, of_record
from components.data.spans import Span
from components.data.splits import SPLIT_RULE
from components.data.tfrecords import Record, read_records
from components.data.window import check_background, replacements

_FILE: Final = ".index.sqlite"
_VERSION: Final = 1  # of the tables and their contents
_TABLES: Final = f"""
    CREATE TABLE span (number INTEGER PRIMARY KEY, made_from TEXT NOT NULL);
    CREATE TABLE picture (
        id INTEGER PRIMARY KEY, span INTEGER NOT NULL, split INTEGER NOT NULL, shard INTEGER NOT NULL, record INTEGER NOT NULL,
        key BLOB NOT NULL, look BLOB, label TEXT NOT NULL, name TEXT NOT NULL
    );
    CREATE INDEX by_key ON picture (key);
    CREATE TABLE band (value INTEGER NOT NULL, picture INTEGER NOT NULL, PRIMARY KEY (value, picture)) WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
"""
_CACHE: Final = 64 * 2**10  # KiB of memory for SQLite

Progress = Callable[[str, int, int | None], None]  # takes the activity, the number of steps done, and their total if it is known


@dataclass(frozen=True)
class Place:
    """Where a labelled picture is: in a span, or in the import that is making the span `number`.

    Attributes:
      number: of the span.
      split: of the record.
      shard: the number of the record's file in the split, from 0.
      record: the number of the record in the file, from 0.
      label: the label, as it was given, NFC-normalised.
      name: of the original picture file; "" if it is not known.
    """

    number: int
    split: str
    shard: int
    record: int
    label: str
    name: str


class SpanIndex:
    """The index of a data folder, as a context manager. Pictures that were added without a call of `keep` are dropped at its end.

    Args:
      root: the data folder.
      rules: how pictures are decoded for the model.
      exclude: numbers of spans that runs do not use. They are in the index, but their pictures are not found.
      save: False to leave the file unchanged, and work on a copy in memory.
    """

    def __init__(self, root: Path, rules: PictureRules, exclude: Collection[int] = (), save: bool = True):
        self._root = root
        self._rules = rules
        self._exclude = frozenset(exclude)
        self._save = save
        self._spans: dict[int, Span] = {}
        self._replaced: dict[bytes, int] = {}

    def __enter__(self) -> "SpanIndex":
        self._database = self._open() if self._save else self._copy()
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def _open(self) -> sqlite3.Connection:
        path = self._root / _FILE
        with contextlib.suppress(_Unusable):
            return _usable(sqlite3.connect(path))
        for file in (path, path.with_name(f"{_FILE}-journal")):
            file.unlink(missing_ok=True)
        return _usable(sqlite3.connect(path))

    def _copy(self) -> sqlite3.Connection:
        memory = sqlite3.connect(":memory:")
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(_read_only(self._root / _FILE), uri=True)) as file:
            file.backup(memory)
        with contextlib.suppress(_Unusable):
            return _usable(memory)
        return _usable(sqlite3.connect(":memory:"))

    def refresh(self, spans: Iterable[Span], progress: Progress | None = None) -> None:
        """Brings the index up to date: forgets spans that are gone or changed, and reads new and changed spans.

        Args:
          spans: all spans of the data folder.
          progress: called after each record that is read.

        Raises:
          CaptchaPipelineError: a shard is missing, or differs from the manifest; or as for `check_background`.
        """
        self._spans = {span.number: span for span in spans}
        used = [span for span in self._spans.values() if span.number not in self._exclude]
        check_background(used, self._rules.background)
        self._replaced = replacements(used)
        current = {number: self._made_from(span.checksum) for number, span in self._spans.items()}
        known = dict(self._database.execute("SELECT number, made_from FROM span"))
        for number in known:
            if known[number] != current.get(number):
                self._database.execute("DELETE FROM band WHERE picture IN (SELECT id FROM picture WHERE span = ?)", (number,))
                self._database.execute("DELETE FROM picture WHERE span = ?", (number,))
                self._database.execute("DELETE FROM span WHERE number = ?", (number,))
        self._database.commit()
        for number, span in self._spans.items():
            if known.get(number) != current[number]:
                total = sum(span.manifest.counts.values())
                for done, (split, shard, record, seen) in enumerate(_records(span, self._rules), start=1):
                    self.add(number, split, shard, record, seen)
                    if progress:
                        progress(f"Reading {span.path.name}", done, total)
                self.keep(number, span.checksum)

    def _made_from(self, checksum: str) -> str:
        return f"{checksum} split rule {SPLIT_RULE}, {self._rules.max_pixels} pixels on {self._rules.background}"

    def same(self, key: bytes) -> list[Place]:
        """Returns the places of the picture with this key in spans that runs use, oldest first."""
        return [place for place in self._everywhere(key) if place.number not in self._exclude]

    def unused(self, key: bytes) -> list[Place]:
        """Returns the places of the picture with this key in spans that runs do not use, oldest first."""
        return [place for place in self._everywhere(key) if place.number in self._exclude]

    def _everywhere(self, key: bytes) -> list[Place]:
        rows = self._database.execute("SELECT span, split, shard, record, label, name FROM picture WHERE key = ? ORDER BY span, id", (key,))
        return [Place(number, SPLITS[split], *rest) for number, split, *rest in rows]

    def current(self, key: bytes) -> list[Place]:
        """Returns the places of `same` that no later span corrects or removes."""
        return self.only_current(key, self.same(key))

    def only_current(self, key: bytes, places: Iterable[Place]) -> list[Place]:
        """Returns those of the places of the picture with this key that no later span corrects or removes."""
        return [place for place in places if not self._is_superseded(key, place.number)]

    def is_removed(self, key: bytes) -> bool:
        """Returns whether a correction has removed the picture with this key, so that no record of it counts."""
        return key in self._replaced and not self.current(key)

    def _is_superseded(self, key: bytes, number: int) -> bool:
        return self._replaced.get(key, 0) > number

    def is_pseudo(self, place: Place) -> bool:
        """Returns whether a model has given the label at this place. The result is False for a place in the current import."""
        return place.number in self._spans and self._spans[place.number].manifest.source == PSEUDO

    def span_of(self, place: Place) -> Span:
        """Returns the span that has this place.

        Raises:
          KeyError: the place is in the current import, whose span does not exist yet.
        """
        return self._spans[place.number]

    def most_alike(self, key: bytes, look: bytes) -> Place | None:
        """Returns the place of the other picture that looks most similar, the oldest of several; None if none is within MAX_DISTANCE.

        Records that a later span corrects or removes do not count.

        Args:
          key: of a picture; its own places do not count.
          look: its perceptual hash, from components/data/likeness.py.
        """
        values = bands(look)
        places = ",".join("?" * len(values))
        found = self._database.execute(
            f"SELECT id, span, key, look FROM picture WHERE id IN (SELECT picture FROM band WHERE value IN ({places}))",  # noqa: S608
            values,
        )
        counts = (
            (distance(look, other), row)
            for row, number, other_key, other in found
            if other_key != key and number not in self._exclude and not self._is_superseded(other_key, number)
        )
        nearest = min(counts, default=(MAX_DISTANCE + 1, 0))
        if nearest[0] > MAX_DISTANCE:
            return None
        number, split, *rest = self._database.execute(
            "SELECT span, split, shard, record, label, name FROM picture WHERE id = ?", (nearest[1],)
        ).fetchone()
        return Place(number, SPLITS[split], *rest)

    def add(self, number: int, split: str, shard: int, record: int, seen: Seen) -> None:
        """Adds a picture of the span `number`. The other numbers are those of `Place`."""
        row = self._database.execute(
            "INSERT INTO picture (span, split, shard, record, key, look, label, name) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, SPLITS.index(split), shard, record, seen.key, seen.look, seen.label, seen.name),
        ).lastrowid
        if seen.look is not None:
            self._database.executemany("INSERT INTO band VALUES (?, ?)", ((value, row) for value in bands(seen.look)))

    def keep(self, number: int, checksum: str) -> None:
        """Saves the pictures that were added for the span `number`. The span need not exist yet.

        Args:
          number: of the span.
          checksum: of its manifest, see `Span.checksum`.
        """
        self._database.execute("INSERT INTO span VALUES (?, ?)", (number, self._made_from(checksum)))
        self._database.commit()

    def describe(self, place: Place) -> str:
        """Returns a place as text for a person: the shard, the record in it, and the name of the original file if it is known."""
        span = self._spans.get(place.number)
        if span is None:
            return place.name
        shard = span.files(place.split)[place.shard].relative_to(self._root)
        return f"{shard}, record {place.record}" + (f" ({place.name})" if place.name else "")


class _Unusable(Exception):
    """The file is damaged, or has a different version."""


def _usable(database: sqlite3.Connection) -> sqlite3.Connection:
    """Checks a database, and creates the tables if it is empty. Raises _Unusable."""
    try:
        ((state,),) = database.execute("PRAGMA quick_check(1)")
        ((version,),) = database.execute("PRAGMA user_version")
        ((tables,),) = database.execute("SELECT count(*) FROM sqlite_master")
        if state != "ok" or (tables and version != _VERSION):
            raise _Unusable(state)
        if not tables:
            database.executescript(f"BEGIN; {_TABLES} COMMIT")
        database.execute(f"PRAGMA cache_size = -{_CACHE}")
    except sqlite3.OperationalError:  # an error of the disk, not of the file
        database.close()
        raise
    except (sqlite3.DatabaseError, _Unusable) as error:
        database.close()
        raise _Unusable(str(error)) from None
    return database


def _read_only(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro"


def _records(span: Span, rules: PictureRules) -> Iterator[tuple[str, int, int, Seen]]:
    """Yields the split, shard, record and picture of each valid record of a span."""
    info = DataInfo.load(span.path / DATA_INFO) if span.manifest.layout == "book" else None
    for split in SPLITS:
        files = [file for file in span.manifest.files if file.path.startswith(f"{split}/")]
        for shard, file in enumerate(files):
            for item in read_records(span.located(file), file.sha256):
                if isinstance(item, Record) and (seen := of_record(item.data, info, span.manifest.spec, rules)):
                    yield split, shard, item.index, seen
