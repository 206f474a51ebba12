"""The journal of labelling on disk: every decision, the texts that are being typed, and what the models read.

It is an SQLite file. A kill leaves no SQLite transaction half done, and with synchronous=FULL a power failure loses none. Decisions are
never overwritten: a change is one more decision, and the newest decision about a picture counts, until spans have it. A hash of the pixels
identifies a picture, so one file serves all folders of a pipeline, and picture files may be renamed.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Final

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError

_VERSION: Final = 2
_TABLES: Final = f"""
    BEGIN;
    CREATE TABLE decision (
        id INTEGER PRIMARY KEY, key BLOB NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, window TEXT NOT NULL, at TEXT NOT NULL,
        settled INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE draft (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, text TEXT NOT NULL);
    CREATE TABLE model (version INTEGER PRIMARY KEY, span INTEGER NOT NULL, labels INTEGER NOT NULL);
    CREATE TABLE reading (
        version INTEGER NOT NULL, key BLOB NOT NULL, text TEXT NOT NULL, before INTEGER NOT NULL, PRIMARY KEY (version, key)
    ) WITHOUT ROWID;
    PRAGMA user_version = {_VERSION};
    COMMIT;
"""
_UNFINISHED: Final = 0  # stands for the version of a model until its training has ended


class Kind(str, Enum):
    """The kinds of decisions about a picture. A skipped picture is shown again after all others."""

    LABEL = "label"
    SKIP = "skip"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Decision:
    """A decision about a picture.

    Attributes:
      id: above 0; later decisions have higher ids.
      kind: what was decided.
      text: the label, as `CaptchaSpec.canonical` returns it; "" for the other kinds.
      window: the name of the browser window in which it was decided.
      settled: whether the decision has been brought into the spans. From then on, the spans say what is right, because later corrections
        and dropped spans are newer than the decision.
    """

    id: int
    kind: Kind
    text: str
    window: str
    settled: bool = False


@dataclass(frozen=True)
class TrainedModel:
    """A model, and the data that there were when its training began.

    Attributes:
      version: its number in the serving folder.
      span: the number of the newest span at that time.
      labels: the number of labels in the spans at that time; 0 if it is not known.
    """

    version: int
    span: int
    labels: int


@dataclass(frozen=True)
class Reading:
    """What a model read in a picture, and whether it did so before a person labelled the picture."""

    text: str
    before: bool


class Journal:
    """The journal. A method that writes returns only when its data are on the disk. Use it in one thread.

    Every method that writes raises CaptchaPipelineError if the folder cannot be written.
    """

    def __init__(self, path: Path):
        """Opens the file, or creates it.

        Raises:
          CaptchaPipelineError: the file is damaged, another release wrote it, or the folder cannot be written.
        """
        self._path = path
        with writing_in(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path)
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                ((version,),) = self._database.execute("PRAGMA user_version")
                if not version:
                    self._database.executescript(_TABLES)
            except sqlite3.OperationalError:  # an error of the disk, not of the file
                self._database.close()
                raise
            except sqlite3.DatabaseError as error:
                self._database.close()
                raise CaptchaPipelineError(
                    f"{path} is damaged: {error}. It has the labels that are not in a span yet. Restore it from a backup, or move it away "
                    "to start with an empty one."
                ) from None
        if version not in (0, _VERSION):
            self._database.close()
            raise CaptchaPipelineError(
                f"Another release of this project wrote {path}. Use that release, or move the file away to start with an empty one."
            )

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def decisions(self) -> dict[bytes, Decision]:
        """Returns the newest decision about each picture, by key."""
        rows = self._database.execute("SELECT key, id, kind, text, window, settled FROM decision ORDER BY id")
        return {key: Decision(number, Kind(kind), text, window, bool(settled)) for key, number, kind, text, window, settled in rows}

    def decide(self, key: bytes, kind: Kind, text: str, window: str, readings: Iterable[tuple[int, str]] = ()) -> Decision:
        """Adds a decision, and removes the draft of the picture.

        Args:
          key: of the picture.
          kind: what was decided.
          text: the label; "" if there is none.
          window: the name of the window in which it was decided.
          readings: what models had read in the picture before the decision, as pairs of version and text, to measure these models.
        """
        with writing_in(self._path.parent), self._database:
            number = self._database.execute(
                "INSERT INTO decision (key, kind, text, window, at) VALUES (?, ?, ?, ?, ?)",
                (key, kind.value, text, window, datetime.now(timezone.utc).isoformat(timespec="milliseconds")),
            ).lastrowid
            self._database.execute("DELETE FROM draft WHERE key = ?", (key,))
            self._database.executemany(
                "INSERT OR IGNORE INTO reading VALUES (?, ?, ?, 1)", ((version, key, reading) for version, reading in readings)
            )
        assert number is not None, "SQLite numbers rows"
        return Decision(number, kind, text, window)

    def settle(self, decisions: Iterable[int]) -> None:
        """Notes that decisions have been brought into the spans.

        Args:
          decisions: their ids.
        """
        with writing_in(self._path.parent), self._database:
            self._database.executemany("UPDATE decision SET settled = 1 WHERE id = ?", ((number,) for number in decisions))

    def drafts(self) -> dict[bytes, str]:
        """Returns the texts that were typed but not accepted, by key of the picture, the oldest first."""
        return dict(self._database.execute("SELECT key, text FROM draft ORDER BY id"))

    def draft(self, key: bytes, text: str) -> None:
        """Stores the text that is being typed for a picture. It replaces an earlier one."""
        with writing_in(self._path.parent), self._database:
            self._database.execute("REPLACE INTO draft (key, text) VALUES (?, ?)", (key, text))

    def begin_model(self, span: int, labels: int) -> None:
        """Notes the data of the training that begins now: the number of the newest span, and the number of labels."""
        with writing_in(self._path.parent), self._database:
            self._database.execute("REPLACE INTO model VALUES (?, ?, ?)", (_UNFINISHED, span, labels))

    def abandon_model(self) -> None:
        """Forgets the training that began last, because it has made no model."""
        with writing_in(self._path.parent), self._database:
            self._database.execute("DELETE FROM model WHERE version = ?", (_UNFINISHED,))

    def finish_model(self, version: int, span: int, labels: int) -> TrainedModel:
        """Returns the data of a model. If the journal does not have them yet, notes that the training that began last has made the model.

        Args:
          version: of the model.
          span, labels: stored as its data if no training is under way, because the model then comes from elsewhere.
        """
        with writing_in(self._path.parent), self._database:
            if not self._database.execute("SELECT count(*) FROM model WHERE version = ?", (version,)).fetchone()[0]:
                renamed = self._database.execute("UPDATE model SET version = ? WHERE version = ?", (version, _UNFINISHED)).rowcount
                if not renamed:
                    self._database.execute("INSERT INTO model VALUES (?, ?, ?)", (version, span, labels))
        (row,) = self._database.execute("SELECT version, span, labels FROM model WHERE version = ?", (version,))
        return TrainedModel(*row)

    def models(self) -> list[TrainedModel]:
        """Returns the models whose training has ended, oldest first."""
        rows = self._database.execute("SELECT version, span, labels FROM model WHERE version != ? ORDER BY version", (_UNFINISHED,))
        return [TrainedModel(*row) for row in rows]

    def read(self, version: int, readings: Iterable[tuple[bytes, str]]) -> None:
        """Stores what a model read in pictures that already had a label.

        Args:
          version: of the model.
          readings: pairs of the picture's key and the text. A reading that is already stored stays.
        """
        with writing_in(self._path.parent), self._database:
            self._database.executemany("INSERT OR IGNORE INTO reading VALUES (?, ?, ?, 0)", ((version, *reading) for reading in readings))

    def readings(self) -> dict[int, dict[bytes, Reading]]:
        """Returns the stored readings, by version of the model, then by key of the picture."""
        found: dict[int, dict[bytes, Reading]] = {}
        for version, key, text, before in self._database.execute("SELECT version, key, text, before FROM reading"):
            found.setdefault(version, {})[key] = Reading(text, bool(before))
        return found
