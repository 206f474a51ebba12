"""The state of a labelling session: what is known about every picture, and which picture each window shows next."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeVar

import numpy as np

from components.base.features import SPLITS
from pipeline.config.config import Config
from pipeline.labelling.catalogue import Catalogue
from pipeline.labelling.growth import Point
from pipeline.labelling.journal import Decision, Journal, Kind, Reading, TrainedModel
from pipeline.labelling.labels import InSpans
from pipeline.labelling.leases import Leases
from pipeline.labelling.order import Order, random_is_due, random_order
from pipeline.labelling.readings import Readings

_TRAIN, _EVAL, _TEST = SPLITS
_Value = TypeVar("_Value")


class Outdated(Exception):
    """Another window has stored a decision about the picture since this window showed it."""


class Session:
    """A folder that is being labelled. Use it in one thread only. A picture is an `int`, its index in the catalogue.

    Attributes:
      catalogue: the pictures.
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
        self.readings = Readings.none(len(catalogue))
        self.model: TrainedModel | None = None
        self._spec = config.captcha
        self._journal = journal
        self._leases = leases
        self._numbers = {key: number for number, key in enumerate(catalogue.keys)}
        self._decisions = self._of_folder(journal.decisions())
        self._drafts = self._of_folder(journal.drafts())
        self._read = {version: self._of_folder(found) for version, found in journal.readings().items()}
        self._refused: dict[int, str] = {}  # the labels that were in the last write of labels, but that no span has
        self._splits = np.array(catalogue.splits(config.data.splits.model_dump()))
        self._random = random_order(catalogue.keys, [np.flatnonzero(self._splits == split).tolist() for split in (_EVAL, _TEST)])
        self._train = self._splits == _TRAIN
        self.written(stored)
        self._order = Order(catalogue.embeddings)
        self._order.restart(number for number in range(len(catalogue)) if self._is_trained_with(number))

    def _of_folder(self, by_key: Mapping[bytes, _Value]) -> dict[int, _Value]:
        return {self._numbers[key]: value for key, value in by_key.items() if key in self._numbers}

    def number(self, key: bytes) -> int | None:
        """Returns the index of the picture with this key; None if the folder does not have it."""
        return self._numbers.get(key)

    def decision(self, number: int) -> Decision | None:
        """Returns the newest decision about a picture; None if there is none in the journal."""
        return self._decisions.get(number)

    def draft(self, number: int) -> str | None:
        """Returns the text that was typed for a picture but not accepted; None if there is none."""
        return self._drafts.get(number)

    def label(self, number: int) -> str | None:
        """Returns the label of a picture, from the journal or a span; None if it has none."""
        if decision := self._pending(number):
            return decision.text if decision.kind is Kind.LABEL else None
        return self._canonical(self._places[number].label) if number in self._places else None

    def _pending(self, number: int) -> Decision | None:
        """Returns the decision about a picture if it is newer than what the spans say about the picture."""
        decision = self._decisions.get(number)
        return None if decision is None or decision.settled or decision.kind is Kind.SKIP else decision

    def _all_pending(self) -> Iterator[tuple[int, Decision]]:
        return ((number, decision) for number in sorted(self._decisions) if (decision := self._pending(number)))

    def _canonical(self, label: str) -> str:
        return self._spec.canonical(label)

    def is_random(self, number: int) -> bool:
        """Returns whether a picture is a random one, of the eval or the test split. Models are measured on these."""
        return not self._train[number]

    def _is_trained_with(self, number: int) -> bool:
        return not self.is_random(number) and self.label(number) is not None

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
        free = self._open.copy()
        free[list(taken)] = False
        if begun := [number for number in self._drafts if free[number]]:
            return begun[-1]
        random = next((number for number in self._random if free[number]), None)
        shown = {*self._decisions, *taken}
        if random is not None and random_is_due(sum(self.is_random(number) for number in shown), len(shown)):
            return random
        helpful = self._order.next(free & self._train)
        if helpful is not None or random is not None:
            return random if helpful is None else helpful
        skipped = [number for number in self._decisions if self._is_skipped(number) and number not in taken]
        return min(skipped, key=lambda number: self._decisions[number].id, default=None)

    def _is_undecided(self, number: int) -> bool:
        return bool(self._open[number]) or self._is_skipped(number)

    def _is_skipped(self, number: int) -> bool:
        skipped = number in self._decisions and self._decisions[number].kind is Kind.SKIP
        return skipped and number not in self._places and number not in self._removed

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
        """Stores a decision about a picture.

        Args:
          window: the window in which it was made.
          number: the picture.
          seen: the id of the earlier decision that the window shows for the picture; 0 if it shows none.
          kind: what was decided.
          text: the label; ignored for other kinds.

        Raises:
          LabelError: `captcha.charset` or `captcha.length` refuses the label.
          Outdated: another window has decided in the meantime.
          CaptchaPipelineError: the journal cannot be written.
        """
        text = self._canonical(text.strip()) if kind is Kind.LABEL else ""
        before = self._decisions.get(number)
        if before and before.id != seen:
            # The window sends the same decision again because the answer was lost, for example when the program was killed.
            if (before.window, before.kind, before.text) == (window, kind, text):
                return before
            raise Outdated
        key = self.catalogue.keys[number]
        readings = self._reading_to_keep(number) if kind is Kind.LABEL and self.label(number) is None else []
        decision = self._journal.decide(key, kind, text, window, readings)
        for version, reading in readings:
            self._read.setdefault(version, {}).setdefault(number, Reading(reading, before=True))
        self._drafts.pop(number, None)
        self._decisions[number] = decision
        self._open[number] = False
        if before is None and not self.is_random(number):
            self._order.choose(number)
        if self._leases.of(window) == number:
            self._leases.release(window)
        return decision

    def _reading_to_keep(self, number: int) -> list[tuple[int, str]]:
        version = int(self.readings.versions[number])
        return [(version, self.readings.texts[number])] if version and self.is_random(number) else []

    # Counts

    def counts(self) -> dict[str, int]:
        """Returns the numbers of pictures that are `labelled`, `skipped`, `unreadable` and `left`. They add up to all pictures.

        A picture with a label in a span counts as labelled, whatever was decided about it later. One that a correction has removed counts
        as unreadable.
        """
        counts = Counter(self._state(number) for number in self._known())
        counts["left"] += len(self.catalogue) - counts.total()
        return {state: counts[state] for state in ("labelled", "skipped", "unreadable", "left")}

    def _known(self) -> set[int]:
        """Returns the pictures of which the journal or the spans say something."""
        return {*self._decisions, *self._places, *self._removed}

    def _state(self, number: int) -> str:
        decision = self._decisions.get(number)
        if number in self._places or ((pending := self._pending(number)) and pending.kind is Kind.LABEL):
            return "labelled"
        if number in self._removed or (decision and decision.kind is Kind.UNREADABLE):
            return "unreadable"
        return "skipped" if decision and decision.kind is Kind.SKIP else "left"

    def by_split(self) -> Counter[str]:
        """Returns the number of labels that the next span will have, by the split that an import would probably choose."""
        return Counter(str(self._splits[number]) for number in self._to_write())

    def in_split(self, split: str) -> int:
        """Returns the number of all pictures that belong to a split."""
        return int((self._splits == split).sum())

    def unwritten(self) -> dict[int, str]:
        """Returns the labels that are not in a span yet, by picture."""
        pending = ((number, decision) for number, decision in self._all_pending() if decision.kind is Kind.LABEL)
        return {number: decision.text for number, decision in pending if number not in self._places and number not in self._removed}

    def _to_write(self) -> dict[int, str]:
        """Returns the labels of `unwritten` without those that the last write has left out, for example because the file is gone."""
        return {number: text for number, text in self.unwritten().items() if self._refused.get(number) != text}

    def new_labels(self) -> int:
        """Returns the number of labels since the training of the model in use began; without a model, the number of all labels."""
        span = self.model.span if self.model else 0
        return len(self._to_write()) + sum(place.number > span for place in self._places.values())

    def corrections(self) -> dict[bytes, str]:
        """Returns the decisions that spans contradict, by key of the picture: the new label, or "" for unreadable."""
        found = {}
        for number, decision in self._all_pending():
            in_span = self._canonical(self._places[number].label) if number in self._places else ""
            if (number in self._places or number in self._removed) and decision.text != in_span:
                found[self.catalogue.keys[number]] = decision.text
        return found

    def written(self, stored: InSpans, tried: Mapping[int, str] | None = None) -> None:
        """Notes what spans have now. Decisions that agree with the spans, or need no span, are settled.

        Args:
          stored: from `in_spans`. It replaces the earlier one.
          tried: the labels that were written, from `unwritten`. Those that no span has were left out.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        self._places, self._removed = stored.places, stored.removed
        self._refused |= {number: text for number, text in (tried or {}).items() if number not in self._places}
        corrected = self.corrections()
        settled = {
            number: decision
            for number, decision in self._all_pending()
            if self.catalogue.keys[number] not in corrected and (decision.kind is Kind.UNREADABLE or number in self._places)
        }
        self._journal.settle(decision.id for decision in settled.values())
        self._decisions |= {number: replace(decision, settled=True) for number, decision in settled.items()}
        self._open = np.ones(len(self.catalogue), bool)
        self._open[[number for number in self._known() if self._state(number) != "left"]] = False

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
        labelled = [(number, text) for number, (text, _) in found.items() if self.is_random(number) and self.label(number) is not None]
        self._journal.read(version, [(self.catalogue.keys[number], text) for number, text in labelled])
        known = self._read.setdefault(version, {})
        for number, text in labelled:
            known.setdefault(number, Reading(text, before=False))

    def to_read(self) -> list[int]:
        """Returns the pictures that a new model reads: first the labelled random ones, which measure it, then the open and skipped ones."""
        pictures = range(len(self.catalogue))
        measuring = [number for number in pictures if self.is_random(number) and self.label(number) is not None]
        return measuring + [number for number in pictures if self._is_undecided(number)]

    def follow_model(self) -> None:
        """Orders the pictures by the confidences of the model in use. Call it when the model has read all pictures of `to_read`."""
        assert self.model is not None, "a model has read"
        since = (number for number in range(len(self.catalogue)) if self._is_trained_with(number) and self._is_new_to(number, self.model))
        self._order.restart(since, 1 - np.nan_to_num(self.readings.confidences, nan=1.0))

    def _is_new_to(self, number: int, model: TrainedModel) -> bool:
        return number not in self._places or self._places[number].number > model.span

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
            label, place = self.label(number), self._places.get(number)
            split = place.split if place else self._splits[number]
            if label is None or not (split == _TEST or self._is_new_to(number, model)) or (only_before and not reading.before):
                continue
            count += 1
            right += reading.text == label
        return right, count
