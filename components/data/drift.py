"""Drift: the distance of the newest span from the other spans of the window.

A profile counts properties of pictures and labels. The distances are those of TFDV's comparators,
https://www.tensorflow.org/tfx/data_validation/get_started#checking_data_skew_and_drift; tests/data/test_drift.py compares the two.
CaptchaExampleGen counts while it checks the records: the counts are exact and need no second pass over the data. This module does not
import TensorFlow.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from components.base import features
from components.data.example_proto import Example

NUMBERS: Final = (features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS)  # counted per whole grey level
SIZE: Final = "size"
POSITIONS: Final = "positions"
MEASURES: Final = (*NUMBERS, SIZE, features.SOURCE, features.CHARACTERS, POSITIONS)

_MAX_VALUES: Final = 1000  # kept per measure: sources are untrusted, and each record may name its own
_MAX_LENGTH: Final = 100  # characters of a source
_BINS: Final = 256

Counts = collections.Counter[str]


class Profile:
    """Counts of picture and label properties of a span: for each measure, how often each value occurs. Small, and mergeable in any order.

    The keys of `counts[measure]` are grey levels ("0" to "255") for NUMBERS, sizes such as "100x30" for SIZE, names for SOURCE, characters
    for CHARACTERS, and position and character ("1 A") for POSITIONS.
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]] | None = None):
        self.counts = {measure: Counts((counts or {}).get(measure, {})) for measure in MEASURES}

    def add(self, example: Example) -> None:
        """Counts an example that CaptchaExampleGen emits."""
        feature = example.features.feature
        for name in NUMBERS:
            self.counts[name][str(int(feature[name].float_list.value[0]))] += 1
        width, height = (feature[name].int64_list.value[0] for name in (features.WIDTH, features.HEIGHT))
        self.counts[SIZE][f"{width}x{height}"] += 1
        self.counts[features.SOURCE][feature[features.SOURCE].bytes_list.value[0].decode()[:_MAX_LENGTH]] += 1
        characters = [value.decode() for value in feature[features.CHARACTERS].bytes_list.value]
        self.counts[features.CHARACTERS].update(characters)
        self.counts[POSITIONS].update(f"{position} {character}" for position, character in enumerate(characters, start=1))

    def merge(self, other: "Profile") -> None:
        """Adds the counts of `other`, a profile of different examples."""
        for measure, counts in other.counts.items():
            self.counts[measure].update(counts)

    def to_json(self) -> dict[str, dict[str, int]]:
        """Returns the counts as `Profile` takes them: at most 1,000 values per measure, the most frequent first."""
        return {measure: dict(counts.most_common(_MAX_VALUES)) for measure, counts in self.counts.items()}


@dataclasses.dataclass(frozen=True)
class Distance:
    """The distance between two distributions.

    Attributes:
      value: 0 to 1.
      threshold: a value above it is drift; None for no threshold.
    """

    value: float
    threshold: float | None

    @property
    def is_drift(self) -> bool:
        """Whether the distance is above its threshold."""
        return self.threshold is not None and self.value > self.threshold


def distances(newest: Profile, others: Profile, thresholds: Mapping[str, float | None]) -> dict[str, Distance]:
    """Returns the distance for each of MEASURES.

    For NUMBERS it is the Jensen-Shannon divergence in bits (Lin, "Divergence Measures Based on the Shannon Entropy", 1991). For the other
    measures it is the largest difference between the two shares of a value; for POSITIONS, between the two shares of a character at one
    position.

    Args:
      newest: the profile of the newest span; not empty.
      others: the merged profile of the other spans; not empty.
      thresholds: by measure; None for no threshold.
    """
    found = {}
    for measure in MEASURES:
        left, right = newest.counts[measure], others.counts[measure]
        if measure in NUMBERS:
            value = divergence(left, right)
        elif measure == POSITIONS:
            value = max(largest_difference(*pair) for pair in _by_position(left, right))
        else:
            value = largest_difference(left, right)
        found[measure] = Distance(value, thresholds[measure])
    return found


def describe(profiles: Mapping[str, Profile], thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """Returns the distances of the newest span as JSON types.

    `{"newest": span, "distances": {measure: {"value", "threshold"}}, "histograms": {measure: {"newest": [256], "others": [256]}}}`.
    The histograms of NUMBERS are shares by grey level. `distances` and `histograms` are empty if there is no other span, or if the newest
    span or all other spans have no good record.

    Args:
      profiles: by the name of the span, the newest last.
      thresholds: by measure; None for no threshold.
    """
    name, newest = list(profiles.items())[-1]
    others = Profile()
    for span, profile in profiles.items():
        if span != name:
            others.merge(profile)
    if not all(any(profile.counts.values()) for profile in (newest, others)):
        return {"newest": name, "distances": {}, "histograms": {}}
    measured = distances(newest, others, thresholds)
    return {
        "newest": name,
        "distances": {measure: dataclasses.asdict(distance) for measure, distance in measured.items()},
        "histograms": {
            measure: {key: histogram(side.counts[measure]).tolist() for key, side in {"newest": newest, "others": others}.items()}
            for measure in NUMBERS
        },
    }


def complain(found: Mapping[str, Any]) -> str:
    """Returns a text that names each measure above its threshold, or "" if there is no drift.

    Args:
      found: the result of `describe`.
    """
    drifted = {measure: value for measure, entry in found["distances"].items() if (value := Distance(**entry)).is_drift}
    if not drifted:
        return ""
    lines = [f"  {measure}: {distance.value:.3f}; drift.{measure} allows {distance.threshold:g}" for measure, distance in drifted.items()]
    return "\n".join([f"The pictures or labels of {found['newest']} differ from those of the other spans:", *lines])


def histogram(counts: Mapping[str, int]) -> np.ndarray:
    """Returns the share of each grey level, float64 [256]."""
    bins = np.zeros(_BINS)
    for level, count in counts.items():
        bins[min(int(level), _BINS - 1)] += count
    return bins / max(bins.sum(), 1)


def divergence(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Returns the Jensen-Shannon divergence in bits, 0 to 1, of two counts by grey level. Neither is empty."""
    from scipy.spatial.distance import jensenshannon  # here, because its import takes longer than everything that most commands do

    return float(jensenshannon(histogram(left), histogram(right), base=2) ** 2)  # SciPy returns the root of it; TFDV does not


def largest_difference(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Returns the largest difference, 0 to 1, between the shares of a value in two counts."""
    totals = max(sum(left.values()), 1), max(sum(right.values()), 1)
    return max((abs(left.get(value, 0) / totals[0] - right.get(value, 0) / totals[1]) for value in {*left, *right}), default=0.0)


def _by_position(left: Counts, right: Counts) -> Iterator[tuple[Counts, Counts]]:
    for position in {key.partition(" ")[0] for key in (*left, *right)}:
        yield tuple(Counts({key: n for key, n in side.items() if key.partition(" ")[0] == position}) for side in (left, right))  # type: ignore[misc]
