"""What people have decided about the pictures of a folder, together with what the spans say about them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from components.data.captcha_spec import CaptchaSpec
from components.data.sources.index import Place
from pipeline.labelling.journal import Decision, Journal, Kind
from pipeline.labelling.labels import InSpans


class Outdated(Exception):
    """Another window has stored a decision about the picture since this window showed it."""


class Decisions:
    """The decisions about N pictures. A picture is an `int`, its index in the catalogue.

    A decision is *pending* until the spans have it. From then on the spans say what is right, because later corrections and dropped spans
    are newer than the decision.

    Attributes:
      open: bool [N], whether nobody has decided about a picture, and no span has it.
      places: where a span has a picture with a valid label.
    """

    def __init__(self, keys: list[bytes], spec: CaptchaSpec, journal: Journal, stored: InSpans):
        """Reads the decisions from the journal.

        Args:
          keys: of the pictures.
          spec: says which labels are valid.
          journal: new decisions are written to it.
          stored: what the spans say about the pictures.
        """
        self._keys = keys
        self._spec = spec
        self._journal = journal
        numbers = {key: number for number, key in enumerate(keys)}
        self._newest = {numbers[key]: decision for key, decision in journal.decisions().items() if key in numbers}
        self._refused: dict[int, str] = {}  # the labels that were in the last write of labels, but that no span has
        self.written(stored)

    def newest(self, number: int) -> Decision | None:
        """Returns the newest decision about a picture; None if there is none in the journal."""
        return self._newest.get(number)

    def decided(self) -> set[int]:
        """Returns the pictures about which the journal has a decision, also those that were skipped."""
        return set(self._newest)

    def label(self, number: int) -> str | None:
        """Returns the label of a picture, from the journal or a span; None if it has none."""
        if decision := self._pending(number):
            return decision.text if decision.kind is Kind.LABEL else None
        return self._spec.canonical(self.places[number].label) if number in self.places else None

    def is_new_to(self, number: int, span: int) -> bool:
        """Returns whether a labelled picture is in no span up to the span with this number."""
        return number not in self.places or self.places[number].number > span

    def skipped(self) -> list[int]:
        """Returns the skipped pictures without a label, the one that was skipped first first."""
        found = [number for number in self._newest if self.state(number) == "skipped"]
        return sorted(found, key=lambda number: self._newest[number].id)

    def _pending(self, number: int) -> Decision | None:
        decision = self._newest.get(number)
        return None if decision is None or decision.settled or decision.kind is Kind.SKIP else decision

    def _all_pending(self) -> Iterator[tuple[int, Decision]]:
        return ((number, decision) for number in sorted(self._newest) if (decision := self._pending(number)))

    def decide(self, window: str, number: int, seen: int, kind: Kind, text: str, readings: list[tuple[int, str]]) -> Decision:
        """Stores a decision about a picture.

        Args:
          window: the window in which it was made.
          number: the picture.
          seen: the id of the earlier decision that the window shows for the picture; 0 if it shows none.
          kind: what was decided.
          text: the label; ignored for other kinds.
          readings: stored with the decision, see `Journal.decide`.

        Raises:
          LabelError: `captcha.charset` or `captcha.length` refuses the label.
          Outdated: another window has decided in the meantime.
          CaptchaPipelineError: the journal cannot be written.
        """
        text = self._spec.canonical(text.strip()) if kind is Kind.LABEL else ""
        before = self._newest.get(number)
        if before and before.id != seen:
            # The window sends the same decision again because the answer was lost, for example when the program was killed.
            if (before.window, before.kind, before.text) == (window, kind, text):
                return before
            raise Outdated
        decision = self._journal.decide(self._keys[number], kind, text, window, readings)
        self._newest[number] = decision
        self.open[number] = False
        return decision

    def counts(self) -> dict[str, int]:
        """Returns the numbers of pictures that are `labelled`, `skipped`, `unreadable` and `left`. They add up to all pictures.

        A picture with a label in a span counts as labelled, whatever was decided about it later. One that a correction has removed counts
        as unreadable.
        """
        counts = Counter(self.state(number) for number in self._known())
        counts["left"] += len(self._keys) - counts.total()
        return {state: counts[state] for state in ("labelled", "skipped", "unreadable", "left")}

    def _known(self) -> set[int]:
        """Returns the pictures about which the journal or the spans say something."""
        return {*self._newest, *self.places, *self._removed}

    def state(self, number: int) -> str:
        """Returns under which name `counts` counts a picture."""
        decision = self._newest.get(number)
        if number in self.places or ((pending := self._pending(number)) and pending.kind is Kind.LABEL):
            return "labelled"
        if number in self._removed or (decision and decision.kind is Kind.UNREADABLE):
            return "unreadable"
        return "skipped" if decision and decision.kind is Kind.SKIP else "left"

    def unwritten(self) -> dict[int, str]:
        """Returns the labels that are not in a span yet, by picture."""
        pending = ((number, decision) for number, decision in self._all_pending() if decision.kind is Kind.LABEL)
        return {number: decision.text for number, decision in pending if number not in self.places and number not in self._removed}

    def to_write(self) -> dict[int, str]:
        """Returns the labels of `unwritten` without those that the last write has left out, for example because the file is gone."""
        return {number: text for number, text in self.unwritten().items() if self._refused.get(number) != text}

    def labels_since(self, span: int) -> int:
        """Returns the number of labels that are in no span up to the span with this number. Those that cannot be written do not count."""
        return len(self.to_write()) + sum(place.number > span for place in self.places.values())

    def corrections(self) -> dict[bytes, str]:
        """Returns the decisions that spans contradict, by key of the picture: the new label, or "" for unreadable."""
        found = {}
        for number, decision in self._all_pending():
            in_span = self._spec.canonical(self.places[number].label) if number in self.places else ""
            if (number in self.places or number in self._removed) and decision.text != in_span:
                found[self._keys[number]] = decision.text
        return found

    def written(self, stored: InSpans, tried: Mapping[int, str] | None = None) -> None:
        """Notes what spans have now. Decisions that agree with the spans, or need no span, are no longer pending.

        Args:
          stored: from `in_spans`. It replaces the earlier one.
          tried: the labels that were written, from `unwritten`. Those that no span has were left out.

        Raises:
          CaptchaPipelineError: the journal cannot be written.
        """
        self.places: Mapping[int, Place] = stored.places
        self._removed = stored.removed
        self._refused |= {number: text for number, text in (tried or {}).items() if number not in self.places}
        corrected = self.corrections()
        settled = {
            number: decision
            for number, decision in self._all_pending()
            if self._keys[number] not in corrected and (decision.kind is Kind.UNREADABLE or number in self.places)
        }
        self._journal.settle(decision.id for decision in settled.values())
        self._newest |= {number: replace(decision, settled=True) for number, decision in settled.items()}
        self.open = np.ones(len(self._keys), bool)
        self.open[[number for number in self._known() if self.state(number) != "left"]] = False
