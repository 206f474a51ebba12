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

import collections
import dataclasses
import itertools
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from components.base.errors import CaptchaPipelineError
from components.base.features import CHARACTERS, CONFIDENCE
from components.data import drift
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureRules, inspect_picture
from components.serving.training_profile import TrainingProfile
from pipeline.server.drift_events import Floats, Measurements, events_of

_LOG: Final = logging.getLogger(__name__)

PICTURES_PER_FALSE_ALARM: Final = 250_000
RECENT: Final = 100  # pictures that an alarm describes
_MAX_STAKE: Final = 1e15  # far above every bound; keeps the stakes finite
_REMEMBERED: Final = 1000  # pictures among which a repetition is noticed
_REPEATS: Final = 16  # one in so many repetitions counts


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
        self._watched = events_of(profile)
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

    @property
    def pictures(self) -> int:
        """How many were observed since the start or the last reset."""
        return self._pictures

    @property
    def evidence(self) -> Floats:
        """The evidence of drift of each feature, float64 [features]. PICTURES_PER_FALSE_ALARM raises an alarm."""
        return np.add.reduceat(self._stakes, self._starts) * self._weights

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
            evidence = self.evidence
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
