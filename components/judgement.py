"""Whether a model is good enough to be pushed: its figures, against floors and against those of the model in production. No TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from scipy.stats import binomtest

from components.metrics import Rate, Results

# The sets of pictures that each have to be read well.
ALL: Final = "all"
NEWEST: Final = "newest span"
GOLDEN: Final = "golden set"

# Shares are quotients of counts: 0.990 - 0.995 is a hair below -0.005.
_ROUNDING: Final = 1e-9


@dataclasses.dataclass(frozen=True)
class SetResult:
    """How a new model reads a set of `count` pictures whole, and how the one in production does; None where there was none."""

    challenger: Rate
    champion: Rate | None
    p_value: float | None
    count: int

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "SetResult":
        """The inverse of `dataclasses.asdict`."""
        champion = tree["champion"] and Rate(**tree["champion"])
        return cls(Rate(**tree["challenger"]), champion, tree["p_value"], tree["count"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The figures of a new model on some pictures, and of the one in production on the same; None where there was none.

    Attributes:
      only_challenger: the number of pictures that the new model alone reads whole.
      only_champion: likewise, the model in production.
    """

    challenger: Results
    champion: Results | None = None
    only_challenger: int = 0
    only_champion: int = 0

    @property
    def gain(self) -> float:
        """By how much the new model's full-sequence accuracy is above the other's; 0 where there is none."""
        return self.challenger.sequence_accuracy.value - self.champion.sequence_accuracy.value if self.champion else 0.0

    @property
    def p_value(self) -> float | None:
        """How likely so uneven a pair of counts is if the two models are equally good; None where there is one model.

        McNemar's test in its exact form, two-sided (McNemar 1947, "Note on the Sampling Error of the Difference Between Correlated
        Proportions or Percentages").
        """
        if self.champion is None:
            return None
        discordant = self.only_challenger + self.only_champion
        return float(binomtest(self.only_challenger, discordant).pvalue) if discordant else 1.0

    @property
    def summary(self) -> "SetResult":
        """What is kept of it."""
        champion = self.champion.sequence_accuracy if self.champion else None
        return SetResult(self.challenger.sequence_accuracy, champion, self.p_value, self.challenger.example_count)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a model must meet.

    Attributes:
      min_sequence_accuracy: the floor on each set, 0 to 1.
      max_regression: how far it may be below the model in production on a set.
      max_slice_regression: likewise on any slice, where that is not by chance.
      confidence: above which a difference is not by chance, such as 0.95.
    """

    min_sequence_accuracy: float
    max_regression: float
    max_slice_regression: float
    confidence: float


def judge(sets: Mapping[str, Comparison], slices: Mapping[str, Comparison], rules: Rules) -> list[str]:
    """Returns what keeps a model from being pushed, a sentence each.

    On each set its full-sequence accuracy must be at the floor, and at most `max_regression` below that of the model in production. It may
    be worse than that one beyond chance on one set only if it is better beyond chance on another. No slice may fall by more than
    `max_slice_regression` beyond chance, at a level shared among the slices (Bonferroni).

    Args:
      sets: by name.
      slices: by name.
      rules: the thresholds.
    """
    failures = []
    for name, comparison in sets.items():
        accuracy, short = comparison.challenger.sequence_accuracy.value, rules.min_sequence_accuracy
        if not accuracy >= short - _ROUNDING:  # NaN, where there is no picture, is under it too
            failures.append(f"{_on(name)} is {accuracy:.2%}, under the floor of {short:.2%}")
        if comparison.champion and comparison.gain < -rules.max_regression - _ROUNDING:
            failures.append(
                f"{_on(name)} is {accuracy:.2%}, {-comparison.gain:.2%} below that of the model in production; "
                f"{rules.max_regression:.2%} are allowed"
            )
    level = 1 - rules.confidence
    changed = {name: it for name, it in sets.items() if it.p_value is not None and it.p_value < level}
    if not any(it.gain > 0 for it in changed.values()):
        failures += [
            f"{_on(name)} is below that of the model in production, and not by chance: {it.only_champion} pictures are lost, "
            f"{it.only_challenger} gained (p = {it.p_value:.2g}); no other set is read better"
            for name, it in changed.items()
            if it.gain < 0 and it.gain >= -rules.max_regression - _ROUNDING
        ]
    for name, it in slices.items():
        if it.p_value is not None and it.gain < -rules.max_slice_regression - _ROUNDING and it.p_value < level / len(slices):
            failures.append(
                f"{_on(name)} has fallen by {-it.gain:.2%}, to {it.challenger.sequence_accuracy.value:.2%} of "
                f"{it.challenger.example_count:,}; {rules.max_slice_regression:.2%} are allowed for one slice"
            )
    return failures


def _on(name: str) -> str:
    return "the full-sequence accuracy" if name == ALL else f"the full-sequence accuracy on the {name}"
