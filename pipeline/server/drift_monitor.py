"""Compares the pictures that a server reads with those that its model was trained on, one at a time.

For each property of a picture, some *events* are watched, such as "brightness above 231" or "the text contains 8". Traffic counts as drift
only if an event is more frequent than in the training profile by more than a tolerance, or than the sampling error of the profile if that
is larger. The null hypothesis is: whatever came before, the next picture shows an event with a probability of at most `u`. Each picture
then bets on each event: a stake grows by the factor 1 + b (1 - u) if the picture shows it, and else shrinks by 1 - b u. Under the null
hypothesis the expected factor is at most 1 (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", 2024). A new
stake of 1 enters with each picture, so that a change is found whenever it begins: this is the Shiryaev-Roberts e-detector of Shin, Ramdas &
Rinaldo, "E-detectors: a nonparametric framework for sequential change detection", 2023. The mean of the stakes over all events
and properties, less the number of pictures, is a supermartingale, so the mean number of pictures before a false alarm is at least
PICTURES_PER_FALSE_ALARM, whatever the distribution, and the chance of one in the first n pictures is at most n divided by it.
"""

import bisect
import collections
import dataclasses
import itertools
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from components.base.errors import CaptchaPipelineError
from components.base.features import BRIGHTNESS, CHARACTERS, CONFIDENCE, CONTRAST, HEIGHT, SHARPNESS, WIDTH
from components.data import drift
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules, inspect_picture
from components.serving.training_profile import CONTAINING, LENGTH, TrainingProfile, confidence_level

_LOG: Final = logging.getLogger(__name__)

NUMBERS: Final = (BRIGHTNESS, CONTRAST, SHARPNESS, WIDTH, HEIGHT, CONFIDENCE, LENGTH)
FEATURES: Final = (*NUMBERS, CHARACTERS)
PICTURES_PER_FALSE_ALARM: Final = 250_000
# By how much the share of an event may exceed that in training. For sizes, 10 % is the default limit of drift.size. If 10 % of the pictures
# are brighter than all in training, the Jensen-Shannon divergence is 0.05, the default limit of drift.brightness. 5 % is the default limit
# of drift.characters, there of all characters, here of the texts with a character.
TOLERANCE: Final = dict.fromkeys(NUMBERS, 0.1) | {CHARACTERS: 0.05}
RECENT: Final = 100  # pictures that an alarm describes
_CUTS: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # the quantiles of the training profile that bound events
_CHANCE_OF_ERROR: Final = 1e-4  # that the true share in training exceeds its upper bound
# A picture multiplies a stake by at most this. So an alarm needs some hundred pictures that show an event, and a short burst of similar
# pictures, which are not independent, is no drift. A larger factor finds large changes sooner, but raises more false alarms in traffic that
# comes in bursts: see benchmarks/drift_monitor.py. Pictures of one client resemble each other less in their texts.
_MAX_FACTOR: Final = dict.fromkeys(NUMBERS, 2 ** (1 / 6)) | {CHARACTERS: 2**0.5}
_MAX_STAKE: Final = 1e15  # far above every bound; keeps the stakes finite
_MAX_CHARACTERS: Final = 64  # that have their own events, the most frequent first
_REMEMBERED: Final = 1000  # pictures among which a repetition is noticed
_REPEATS: Final = 16  # one in so many repetitions counts

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


def measure(picture: bytes, text: str, confidence: float, spec: CaptchaSpec, rules: PictureRules) -> Measurements:
    """Decodes and measures a picture that the model has read. Takes longer than `DriftMonitor.observe`: see benchmarks/drift_monitor.py.

    Args:
      picture: encoded.
      text: that the model read.
      confidence: of the model in the text.
      spec: of the model.
      rules: of the training profile.

    Raises:
      PictureError: as for `components.data.pictures.inspect_picture`; not if the model found the picture valid.
    """
    found = inspect_picture(picture, spec, rules)
    return Measurements(found.width, found.height, found.brightness, found.contrast, found.sharpness, text, confidence)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Drift of a feature.

    Attributes:
      feature: one of FEATURES.
      event: what has become more frequent, such as "brightness above 231".
      measured: the share of the last RECENT pictures that show it, 0 to 1. If the drift is younger than that, the share is still rising.
      trained: its share in the training profile.
      distance: of the last RECENT pictures from the training profile: for brightness, contrast, sharpness and confidence the Jensen-Shannon
        divergence in bits, for the others the largest difference in the share of a value, as in `components.data.drift.distances`.
      pictures: observed since the start or the last reset, with this one.
    """

    feature: str
    event: str
    measured: float
    trained: float
    distance: float
    pictures: int

    def __str__(self) -> str:
        return (
            f"Drift of {self.feature} after {self.pictures:,} pictures: {self.event} in {self.measured:.1%} of the latest, "
            f"in {self.trained:.1%} in training (distance {self.distance:.2f})"
        )


class _Event(NamedTuple):
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
        bet = min((_MAX_FACTOR[self.feature] - 1) / (1 - self.tolerated), 0.99 / self.tolerated)
        return np.array([1 - bet * self.tolerated, 1 + bet * (1 - self.tolerated)])


def _event(name: str, feature: str, count: int, total: int) -> _Event:
    """Returns an event that `count` of `total` pictures of the training profile show."""
    # The upper bound of Clopper & Pearson, 1934.
    highest = float(beta.ppf(1 - _CHANCE_OF_ERROR, count + 1, total - count)) if count < total else 1.0
    return _Event(name, feature, count / total, max(highest, count / total + TOLERANCE[feature]))


class _Number:
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


class _Characters:
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


class DriftMonitor:
    """Raises an Alarm for each feature that has drifted; see the module docstring.

    The memory is bounded, and the cost of a picture does not depend on how many were observed. Threads may share a monitor.

    A picture with the size, brightness, contrast and sharpness of one among the last thousand different pictures is a repetition. One in
    sixteen repetitions counts. Otherwise a client that sends the same pictures over and over would look like drift.
    """

    def __init__(self, profile: TrainingProfile):
        """Starts without pictures.

        Args:
          profile: what the model was trained on.
        """
        self._profile = profile
        counts = profile.counts
        self._watched: dict[str, _Number | _Characters] = {feature: _Number(feature, counts[feature]) for feature in NUMBERS}
        self._watched[CHARACTERS] = _Characters(counts[CONTAINING], sum(counts[LENGTH].values()))
        sizes = [len(watched.events) for watched in self._watched.values()]
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._weights = 1 / (len(sizes) * np.array(sizes))
        self._stakes = np.zeros(sum(sizes))
        self._lock = threading.Lock()
        self.reset()

    @classmethod
    def of_version(cls, version: Path) -> "DriftMonitor | None":
        """Returns a monitor for the exported model in the folder `version`. If it has no usable profile, logs why and returns None."""
        try:
            return cls(TrainingProfile.load(version))
        except CaptchaPipelineError as error:
            _LOG.warning("The drift monitor is off. %s", error)
            return None

    @property
    def rules(self) -> PictureRules:
        """How to convert a picture before it is measured."""
        return self._profile.rules

    def reset(self) -> None:
        """Forgets all pictures and alarms."""
        with self._lock:
            self._stakes[:] = 0
            self._pictures = self._repetitions = 0
            self._alarmed: set[str] = set()
            self._recent: collections.deque[Measurements] = collections.deque(maxlen=RECENT)
            self._remembered: collections.OrderedDict[tuple[float, ...], None] = collections.OrderedDict()

    def observe(self, found: Measurements) -> Alarm | None:
        """Adds a picture that the model has read. Returns the alarm that it raises, or None. A feature raises one alarm until `reset`.

        Args:
          found: of a picture that the model found valid.
        """
        with self._lock:
            self._pictures += 1
            if self._is_repeated(found):
                self._repetitions += 1
                if self._repetitions % _REPEATS:
                    return None
            self._recent.append(found)
            self._stakes += 1
            self._stakes *= np.concatenate([watched.factors(found) for watched in self._watched.values()])
            np.minimum(self._stakes, _MAX_STAKE, out=self._stakes)
            evidence = np.add.reduceat(self._stakes, self._starts) * self._weights
            if evidence.max() < PICTURES_PER_FALSE_ALARM:
                return None
            above = itertools.compress(self._watched, evidence >= PICTURES_PER_FALSE_ALARM)
            feature = next((feature for feature in above if feature not in self._alarmed), None)
            if feature is None:
                return None
            self._alarmed.add(feature)
            return self._alarm(feature)

    def _is_repeated(self, found: Measurements) -> bool:
        key = found[:5]
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return True
        self._remembered[key] = None
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return False

    def _alarm(self, feature: str) -> Alarm:
        watched = self._watched[feature]
        start = self._starts[list(self._watched).index(feature)]
        number = int(self._stakes[start : start + len(watched.events)].argmax())
        event = watched.events[number]
        measured = sum(watched.shows(number, found) for found in self._recent) / len(self._recent)
        return Alarm(feature, event.name, measured, event.trained, self._distance(feature), self._pictures)

    def _distance(self, feature: str) -> float:
        trained = self._profile.counts[feature]
        if feature == CHARACTERS:
            return drift.largest_difference(collections.Counter("".join(found.text for found in self._recent)), trained)
        recent = collections.Counter(str(found.value(feature)) for found in self._recent)
        if feature in drift.NUMBERS:
            return drift.divergence(recent, trained)
        if feature == CONFIDENCE:
            return drift.divergence(_in_percent(recent), _in_percent(trained))
        return drift.largest_difference(recent, trained)


def _in_percent(thousandths: Mapping[str, int]) -> collections.Counter[str]:
    counts = collections.Counter[str]()
    for value, count in thousandths.items():
        counts[str(int(value) // 10)] += count
    return counts
