"""Events that a drift monitor watches: "brightness above 231", "a text with '8'", and how often the training pictures show them."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from components.base.features import BRIGHTNESS, CHARACTERS, CONFIDENCE, CONTRAST, HEIGHT, SHARPNESS, WIDTH
from components.serving.training_profile import CONTAINING, LENGTH, TrainingProfile, confidence_level

NUMBERS: Final = (BRIGHTNESS, CONTRAST, SHARPNESS, WIDTH, HEIGHT, CONFIDENCE, LENGTH)
FEATURES: Final = (*NUMBERS, CHARACTERS)
# By how much the share of an event may exceed that in training. For sizes, 10 % is the default limit of drift.size. If 10 % of the pictures
# are brighter than all in training, the Jensen-Shannon divergence is 0.05, the default limit of drift.brightness. 5 % is the default limit
# of drift.characters, there of all characters, here of the texts with a character.
TOLERANCE: Final = dict.fromkeys(NUMBERS, 0.1) | {CHARACTERS: 0.05}
_CUTS: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # the quantiles of the training profile that bound events
CHANCE_OF_ERROR: Final = 1e-4  # that the true share in training exceeds its upper bound
# A picture multiplies a stake by at most this. So an alarm needs some hundred pictures that show an event, and a short burst of similar
# pictures, which are not independent, is no drift. A larger factor finds large changes sooner, but raises more false alarms in traffic that
# comes in bursts: see benchmarks/drift_monitor.py. Pictures of one client resemble each other less in their texts.
MAX_FACTOR: Final = dict.fromkeys(NUMBERS, 2 ** (1 / 6)) | {CHARACTERS: 2**0.5}
_MAX_CHARACTERS: Final = 64  # that have their own events, the most frequent first

Floats = npt.NDArray[np.float64]


class Measurements(NamedTuple):
    """A picture and its reading.

    Attributes:
      width, height: pixels.
      brightness, contrast, sharpness: as in `components.data.pictures.Picture`.
      text: that the model read.
      confidence: of the model in the text, 0 to 1.
    """

    width: int
    height: int
    brightness: float
    contrast: float
    sharpness: float
    text: str
    confidence: float

    def value(self, feature: str) -> int:
        """Returns one of NUMBERS as the training profile counts it."""
        if feature == LENGTH:
            return len(self.text)
        if feature == CONFIDENCE:
            return confidence_level(self.confidence)
        return int(getattr(self, feature))


class Event(NamedTuple):
    """Something that a picture shows or not.

    Attributes:
      name: such as "brightness above 231".
      feature: one of FEATURES.
      trained: its share in the training profile.
      tolerated: the highest share that is no drift.
    """

    name: str
    feature: str
    trained: float
    tolerated: float

    @property
    def factors(self) -> Floats:
        """The factors of its stake, float64 [2]: of a picture that does not show the event, and of one that does."""
        if self.tolerated >= 1:
            return np.zeros(2)  # can never be drift
        # A stake stays above 0, or one picture without the event would end it for good.
        bet = min((MAX_FACTOR[self.feature] - 1) / (1 - self.tolerated), 0.99 / self.tolerated)
        return np.array([1 - bet * self.tolerated, 1 + bet * (1 - self.tolerated)])


def _event(name: str, feature: str, count: int, total: int) -> Event:
    """Returns an event that `count` of `total` pictures of the training profile show."""
    # The upper bound of Clopper & Pearson, 1934.
    highest = float(beta.ppf(1 - CHANCE_OF_ERROR, count + 1, total - count)) if count < total else 1.0
    return Event(name, feature, count / total, max(highest, count / total + TOLERANCE[feature]))


class Events(Protocol):
    """The events of a feature."""

    @property
    def events(self) -> Sequence[Event]:
        """In the order of the stakes."""

    def factors(self, found: Measurements) -> Floats:
        """Returns what a picture multiplies the stakes by, float64 [events]."""

    def shows(self, event: int, found: Measurements) -> bool:
        """Returns whether a picture shows an event."""


def events_of(profile: TrainingProfile) -> dict[str, Events]:
    """Returns the events of each of FEATURES."""
    counts = profile.counts
    found: dict[str, Events] = {feature: NumberEvents(feature, counts[feature]) for feature in NUMBERS}
    found[CHARACTERS] = CharacterEvents(counts[CONTAINING], sum(counts[LENGTH].values()))
    return found


class NumberEvents:
    """The events of a number: "below" and "above" some of its values in training."""

    def __init__(self, feature: str, counts: Mapping[str, int]):
        self._feature = feature
        values, number = np.array(sorted((int(value), count) for value, count in counts.items())).T
        ends = number.cumsum()  # how many are at or below each value
        total = int(ends[-1])
        at = np.unique(np.searchsorted(ends, np.array(_CUTS) * total))
        self._cuts: list[int] = values[at].tolist()
        below = [_event(f"{feature} below {values[i]}", feature, int(ends[i] - number[i]), total) for i in at]
        above = [_event(f"{feature} above {values[i]}", feature, int(total - ends[i]), total) for i in at]
        self.events = [*below, *above]
        # The number of places: below the first cut, at it, between it and the second, and so on.
        self._shown = np.array([self._shown_at(place) for place in range(2 * len(at) + 1)])
        factors = np.stack([event.factors for event in self.events])
        self._factors = np.where(self._shown, factors[:, 1], factors[:, 0])

    def _shown_at(self, place: int) -> npt.NDArray[np.bool_]:
        cuts = 2 * np.arange(len(self._cuts)) + 1
        return np.concatenate([place < cuts, place > cuts])

    def _place(self, found: Measurements) -> int:
        value = found.value(self._feature)
        return bisect.bisect_left(self._cuts, value) + bisect.bisect_right(self._cuts, value)

    def factors(self, found: Measurements) -> Floats:
        """Returns what a picture multiplies the stakes by, float64 [events]."""
        return self._factors[self._place(found)]

    def shows(self, event: int, found: Measurements) -> bool:
        """Returns whether a picture shows an event."""
        return bool(self._shown[self._place(found), event])


class CharacterEvents:
    """The events of the text: it contains a character, or it does not.

    One event for each picture, not for each character of its text, because the characters of a text may depend on each other.
    """

    def __init__(self, containing: Mapping[str, int], total: int):
        self._letters = sorted(containing, key=lambda letter: -containing[letter])[:_MAX_CHARACTERS]
        self._numbers = {letter: number for number, letter in enumerate(self._letters)}
        self.events = []
        for letter in self._letters:
            with_it = containing[letter]
            self.events.append(_event(f"a text with {letter!r}", CHARACTERS, with_it, total))
            self.events.append(_event(f"a text without {letter!r}", CHARACTERS, total - with_it, total))
        factors = np.stack([event.factors for event in self.events]).reshape(len(self._letters), 2, 2)
        self._absent = np.stack([factors[:, 0, 0], factors[:, 1, 1]], axis=1)  # [letters, events of a letter]
        self._present = np.stack([factors[:, 0, 1], factors[:, 1, 0]], axis=1)

    def factors(self, found: Measurements) -> Floats:
        """Returns what a picture multiplies the stakes by, float64 [events]."""
        factors = self._absent.copy()
        present = [self._numbers[letter] for letter in set(found.text) if letter in self._numbers]
        factors[present] = self._present[present]
        return factors.ravel()

    def shows(self, event: int, found: Measurements) -> bool:
        """Returns whether a picture shows an event."""
        letter, is_without = divmod(event, 2)
        return (self._letters[letter] in found.text) != bool(is_without)
