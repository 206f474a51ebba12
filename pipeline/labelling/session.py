"""The state of a labelling session: which picture each window shows next, and how well the models read."""

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from components.base.features import SPLITS
from pipeline.config.config import Config
from pipeline.labelling.catalogue import Catalogue
from pipeline.labelling.decisions import Decisions
from pipeline.labelling.growth import Point
from pipeline.labelling.journal import Decision, Journal, Kind, Reading, TrainedModel
from pipeline.labelling.labels import InSpans
from pipeline.labelling.leases import Leases
from pipeline.labelling.order import Order, random_is_due, random_order
from pipeline.labelling.readings import Readings

_TRAIN, _EVAL, _TEST = SPLITS
_Value = TypeVar("_Value")


class Session:
    """A folder that is being labelled. Use it in one thread only. A picture is an `int`, its index in the catalogue.

    Attributes:
      catalogue: the pictures.
      decisions: what people have decided about them.
      readings: what the models read in them.
      model: the model in use; None before the first one.
    """

    def __init__(self, config: Config, catalogue: Catalogue, journal: Journal, stored: InSpans, leases: Leases):
        """Continues from what the journal and the spans already have.

        Args:
          config: of the pipeline.
          catalogue: the pictures of the folder.
          journal: earlier decisions are read from it, and new ones are written to it.
          stored: what the spans say about the pictures, from `in_spans`.
          leases: which picture each window shows.
        """
        self.catalogue = catalogue
        self.decisions = Decisions(catalogue.keys, config.captcha, journal, stored)
        self.readings = Readings.none(len(catalogue))
        self.model: TrainedModel | None = None
        self._journal = journal
        self._leases = leases
        self._numbers = {key: number for number, key in enumerate(catalogue.keys)}
        self._drafts = self._of_folder(journal.drafts())
        self._read = {version: self._of_folder(found) for version, found in journal.readings().items()}
        self._splits = np.array(catalogue.splits(config.data.splits.model_dump()))
        self._random = random_order(catalogue.keys, [np.flatnonzero(self._splits == split).tolist() for split in (_EVAL, _TEST)])
        self._train = self._splits == _TRAIN
        self._order = Order(catalogue.embeddings)
        self._order.restart(number for number in range(len(catalogue)) if self._is_trained_with(number))

    def _of_folder(self, by_key: Mapping[bytes, _Value]) -> dict[int, _Value]:
        return {self._numbers[key]: value for key, value in by_key.items() if key in self._numbers}

    def number(self, key: bytes) -> int | None:
        """Returns the index of the picture with this key; None if the folder does not have it."""
        return self._numbers.get(key)

    def draft(self, number: int) -> str | None:
        """Returns the text that was typed for a picture but not accepted; None if there is none."""
        return self._drafts.get(number)

    def is_random(self, number: int) -> bool:
        """Returns whether a picture is a random one, of the eval or the test split. Models are measured on these."""
        return not self._train[number]

    def _is_trained_with(self, number: int) -> bool:
        return not self.is_random(number) and self.decisions.label(number) is not None

    # Windows

    def next(self, window: str) -> int | None:
        """Returns the picture that a window shows next, and gives the window its lease; None if no picture is left.

        A window that asks again before it has decided gets the same picture.
        """
        self._leases.touch(window)
        number = self._leases.of(window)
        if number is not None and self._is_undecided(number):
            return number
        number = self._choose(self._leases.held_by_others(window))
        if number is None:
            self._leases.release(window)
            return None
        self._leases.take(window, number)
        return number

    def _choose(self, taken: set[int]) -> int | None:
        free = self.decisions.open.copy()
        free[list(taken)] = False
        if begun := [number for number in self._drafts if free[number]]:
            return begun[-1]
        random = next((number for number in self._random if free[number]), None)
        shown = self.decisions.decided() | taken
        if random is not None and random_is_due(sum(self.is_random(number) for number in shown), len(shown)):
            return random
        helpful = self._order.next(free & self._train)
        if helpful is not None or random is not None:
            return random if helpful is None else helpful
        return next((number for number in self.decisions.skipped() if number not in taken), None)

    def _is_undecided(self, number: int) -> bool:
        return bool(self.decisions.open[number]) or self.decisions.state(number) == "skipped"

    def touch(self, window: str, number: int | None) -> None:
        """Notes that a window is still open and shows a picture. After a restart of the program, this gives the window its lease back."""
        self._leases.touch(window)
        if number is not None and self._leases.of(window) is None and self._is_undecided(number):
            self._leases.take(window, number)

    def leave(self, window: str) -> None:
        """Notes that a window was closed."""
        self._leases.leave(window)

    def type(self, number: int, text: str) -> None:
        """Stores the text that is being typed for a picture."""
        self._journal.draft(self.catalogue.keys[number], text)
        self._drafts.pop(number, None)
        self._drafts[number] = text

    def decide(self, window: str, number: int, seen: int, kind: Kind, text: str) -> Decision:
        """Stores a decision about a picture. The arguments and errors are those of `Decisions.decide`."""
        before = self.decisions.newest(number)
        readings = self._reading_to_keep(number) if kind is Kind.LABEL and self.decisions.label(number) is None else []
        decision = self.decisions.decide(window, number, seen, kind, text, readings)
        if decision == before:
            return decision
        for version, reading in readings:
            self._read.setdefault(version, {}).setdefault(number, Reading(reading, before=True))
        self._drafts.pop(number, None)
        if before is None and not self.is_random(number):
            self._order.choose(number)
        if self._leases.of(window) == number:
            self._leases.release(window)
        return decision

    def _reading_to_keep(self, number: int) -> list[tuple[int, str]]:
        version = int(self.readings.versions[number])
        return [(version, self.readings.texts[number])] if version and self.is_random(number) else []

    # Counts

    def by_split(self) -> Counter[str]:
        """Returns the number of labels that the next span will have, by the split that an import would probably choose."""
        return Counter(str(self._splits[number]) for number in self.decisions.to_write())

    def in_split(self, split: str) -> int:
        """Returns the number of all pictures that belong to a split."""
        return int((self._splits == split).sum())

    def new_labels(self) -> int:
        """Returns the number of labels since the training of the model in use began; without a model, the number of all labels."""
        return self.decisions.labels_since(self.model.span if self.model else 0)

    # Models

    def begin_model(self, span: int, labels: int) -> None:
        """Notes that the training of a model begins.

        Args:
          span: the number of the newest span; 0 if there is none.
          labels: the number of labels in the spans.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        self._journal.begin_model(span, labels)

    def abandon_model(self) -> None:
        """Notes that the training that began last has ended without a model."""
        self._journal.abandon_model()

    def use_model(self, version: int, span: int) -> None:
        """Notes that the pictures are read with another model from now on.

        Args:
          version: of the model.
          span: the number of the newest span; used only if the journal has no record of the model's training. The number of its labels is
            then not known.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        self.model = self._journal.finish_model(version, span, 0)

    def note_readings(self, version: int, found: Mapping[int, tuple[str, float]]) -> None:
        """Stores what a model read.

        Args:
          version: of the model.
          found: by picture, the text and its confidence, 0 to 1.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        self.readings.note(version, found)
        labelled = [
            (number, text) for number, (text, _) in found.items() if self.is_random(number) and self.decisions.label(number) is not None
        ]
        self._journal.read(version, [(self.catalogue.keys[number], text) for number, text in labelled])
        known = self._read.setdefault(version, {})
        for number, text in labelled:
            known.setdefault(number, Reading(text, before=False))

    def to_read(self) -> list[int]:
        """Returns the pictures that a new model reads: first the labelled random ones, which measure it, then the open and skipped ones."""
        pictures = range(len(self.catalogue))
        measuring = [number for number in pictures if self.is_random(number) and self.decisions.label(number) is not None]
        return measuring + [number for number in pictures if self._is_undecided(number)]

    def follow_model(self) -> None:
        """Orders the pictures by the confidences of the model in use. Call it when the model has read all pictures of `to_read`."""
        assert self.model is not None, "a model has read"
        since = (
            number
            for number in range(len(self.catalogue))
            if self._is_trained_with(number) and self.decisions.is_new_to(number, self.model.span)
        )
        self._order.restart(since, 1 - np.nan_to_num(self.readings.confidences, nan=1.0))

    def points(self) -> list[Point]:
        """Returns how well each model reads, oldest model first."""
        return [Point(model.version, model.labels, *self._measure(model, only_before=False)) for model in self._journal.models()]

    def since(self) -> tuple[int, int]:
        """Returns two numbers of pictures for the model in use: how many it read right, and how many there are.

        Only random pictures count that the model read before a person labelled them. Without a model, both numbers are 0.
        """
        return self._measure(self.model, only_before=True) if self.model else (0, 0)

    def _measure(self, model: TrainedModel, *, only_before: bool) -> tuple[int, int]:
        """Returns the number of right readings, and of all readings, of random pictures that the model's training did not use.

        No training uses the test split. Training uses the eval split to choose the epoch and the temperature, so a picture of that split
        counts only if it was labelled after the training began.
        """
        right = count = 0
        for number, reading in self._read.get(model.version, {}).items():
            label, place = self.decisions.label(number), self.decisions.places.get(number)
            split = place.split if place else self._splits[number]
            if (
                label is None
                or not (split == _TEST or self.decisions.is_new_to(number, model.span))
                or (only_before and not reading.before)
            ):
                continue
            count += 1
            right += reading.text == label
        return right, count
