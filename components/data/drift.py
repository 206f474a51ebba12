"""How far the newest span is from the other spans of the window: counts of what pictures and labels are like, and distances.

The distances are those of TFDV's comparators, https://www.tensorflow.org/tfx/data_validation/get_started#checking_data_skew_and_drift,
and tests/data/test_drift.py compares the two. CaptchaExampleGen makes the counts while it checks the records, so they are exact and need no
second pass over the data. No TensorFlow.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from scipy.spatial.distance import jensenshannon

from components.base import features
from components.data.example_proto import Example

NUMBERS: Final = (features.BRIGHTNESS, features.CONTRAST, features.SHARPNESS)  # counted by whole grey levels
SIZE: Final = "size"
POSITIONS: Final = "positions"
MEASURES: Final = (*NUMBERS, SIZE, features.SOURCE, features.CHARACTERS, POSITIONS)

_MAX_VALUES: Final = 1000  # of one measure: sources come from strangers, and may be as many as records
_MAX_LENGTH: Final = 100  # characters of a source
_BINS: Final = 256

Counts = collections.Counter[str]


class Profile:
    """What the pictures and labels of a span are like: by measure, how often each value occurs. Small, and mergeable in any order.

    `counts[measure]` has a grey level ("0" to "255") for NUMBERS, "100x30" for SIZE, the name for SOURCE, the character for CHARACTERS,
    and position and character ("1 A") for POSITIONS.
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]] | None = None):
        self.counts = {measure: Counts((counts or {}).get(measure, {})) for measure in MEASURES}

    def add(self, example: Example) -> None:
        """Counts an example as CaptchaExampleGen emits it."""
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
        """Adds the counts of `other`, which has seen other examples."""
        for measure, counts in other.counts.items():
            self.counts[measure].update(counts)

    def to_json(self) -> dict[str, dict[str, int]]:
        """Returns what `Profile` takes, the commonest values first."""
        return {measure: dict(counts.most_common(_MAX_VALUES)) for measure, counts in self.counts.items()}


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far two distributions are apart, 0 to 1, and from where on that is drift; None for never."""

    value: float
    threshold: float | None

    @property
    def is_drift(self) -> bool:
        return self.threshold is not None and self.value > self.threshold


def distances(newest: Profile, others: Profile, thresholds: Mapping[str, float | None]) -> dict[str, Distance]:
    """Returns the distance of each of MEASURES.

    For NUMBERS it is the Jensen-Shannon divergence in bits (Lin, "Divergence Measures Based on the Shannon Entropy", 1991), else the
    largest difference of a value's shares; for POSITIONS, of a character's shares at one position.

    Args:
      newest: not empty.
      others: not empty.
      thresholds: by measure.
    """
    found = {}
    for measure in MEASURES:
        left, right = newest.counts[measure], others.counts[measure]
        if measure in NUMBERS:
            value = float(jensenshannon(histogram(left), histogram(right), base=2) ** 2)  # the divergence, as TFDV has it
        elif measure == POSITIONS:
            value = max(_largest_difference(*pair) for pair in _by_position(left, right))
        else:
            value = _largest_difference(left, right)
        found[measure] = Distance(value, thresholds[measure])
    return found


def describe(profiles: Mapping[str, Profile], thresholds: Mapping[str, float | None]) -> dict[str, Any]:
    """Returns the distances of the newest span, in JSON types.

    `{"newest": span, "distances": {measure: {"value", "threshold"}}, "histograms": {measure: {"newest": [256], "others": [256]}}}`:
    the histograms of NUMBERS are shares by grey level. With no other span, or none with a good record, there are no distances.

    Args:
      profiles: by the name of the span, the newest last.
      thresholds: by measure.
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
    """Returns what differs by more than its threshold, or ""."""
    drifted = {measure: value for measure, entry in found["distances"].items() if (value := Distance(**entry)).is_drift}
    if not drifted:
        return ""
    lines = [f"  {measure}: {distance.value:.3f}; drift.{measure} allows {distance.threshold:g}" for measure, distance in drifted.items()]
    return "\n".join([f"The pictures or labels of {found['newest']} are unlike those of the other spans:", *lines])


def histogram(counts: Mapping[str, int]) -> np.ndarray:
    """Returns the shares of the grey levels, float64 [256]."""
    bins = np.zeros(_BINS)
    for level, count in counts.items():
        bins[min(int(level), _BINS - 1)] += count
    return bins / max(bins.sum(), 1)


def _largest_difference(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    totals = max(sum(left.values()), 1), max(sum(right.values()), 1)
    return max((abs(left.get(value, 0) / totals[0] - right.get(value, 0) / totals[1]) for value in {*left, *right}), default=0.0)


def _by_position(left: Counts, right: Counts) -> Iterator[tuple[Counts, Counts]]:
    for position in {key.partition(" ")[0] for key in (*left, *right)}:
        yield tuple(Counts({key: n for key, n in side.items() if key.partition(" ")[0] == position}) for side in (left, right))  # type: ignore[misc]
