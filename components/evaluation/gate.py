"""Whether a model is good enough to be pushed: its figures, against floors and against those of the model in production. No TensorFlow."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field
from scipy.stats import binomtest

from components.base.section import Fraction, Section
from components.evaluation.metrics import Rate

# The sets of pictures that each have to be read well.
ALL: Final = "all"
NEWEST: Final = "newest span"
GOLDEN: Final = "golden set"
# The golden set once more, against the pushed model that has read it best: components/evaluation/golden.py.
BEST: Final = "golden set, best so far"

# Shares are quotients of counts: 0.990 - 0.995 is a hair below -0.005.
_ROUNDING: Final = 1e-9


@dataclasses.dataclass(frozen=True)
class SetResult:
    """How a new model reads a set of `count` pictures whole, and how another one does; None where there was none.

    The other is the model in production; on BEST it is the best one so far.
    """

    candidate: Rate
    production: Rate | None
    p_value: float | None
    count: int

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "SetResult":
        """The inverse of `dataclasses.asdict`."""
        tree = {"candidate": tree.get("challenger"), "production": tree.get("champion"), **tree}  # the names of release 0.1
        production = tree["production"] and Rate(**tree["production"])
        return cls(Rate(**tree["candidate"]), production, tree["p_value"], tree["count"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The full-sequence accuracy of a new model on some pictures, and of another one on the same; None where there was none.

    Attributes:
      count: the number of pictures.
      only_candidate: of those that the new model alone reads whole.
      only_production: likewise, the other one.
    """

    count: int
    candidate: Rate
    production: Rate | None = None
    only_candidate: int = 0
    only_production: int = 0

    @property
    def gain(self) -> float:
        """By how much the new model's accuracy is above the other's; 0 where there is none."""
        return self.candidate.value - self.production.value if self.production else 0.0

    @functools.cached_property
    def p_value(self) -> float | None:
        """How likely so uneven a pair of counts is if the two models are equally good; None where there is one model.

        McNemar's test in its exact form, two-sided (McNemar 1947, "Note on the Sampling Error of the Difference Between Correlated
        Proportions or Percentages").
        """
        if self.production is None:
            return None
        discordant = self.only_candidate + self.only_production
        return float(binomtest(self.only_candidate, discordant).pvalue) if discordant else 1.0

    def falls_by_more(self, margin: float, level: float) -> bool:
        """Whether the new model is more than `margin` below the other one, and at this level not by chance."""
        return self.gain < -margin - _ROUNDING and self.p_value is not None and self.p_value < level

    @property
    def summary(self) -> "SetResult":
        """What is kept of it."""
        return SetResult(self.candidate, self.production, self.p_value, self.count)


@dataclasses.dataclass(frozen=True)
class BestSoFar:
    """A new model on the golden set, against the one that has read it best of all `models` pushed so far: `version`."""

    comparison: Comparison
    version: int
    models: int


class Gate(Section):
    """What a model must meet: the section `evaluator` of the configuration."""

    min_sequence_accuracy: Fraction = Field(0.98, description="the floor: no model is blessed whose whole interval is under it")
    max_regression: Fraction = Field(0.005, description="how far a new model may be below the one in production, but for chance")
    max_slice_regression: Fraction = Field(0.05, description="likewise, in any one slice")
    confidence: float = Field(0.95, gt=0, lt=1, description="of the intervals, and above which a difference is not by chance")
    min_pictures: int = Field(50, ge=1, description="a newest span or golden set of fewer test pictures warns, and does not judge")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What keeps a model from being pushed, and what a reader of its figures should know; a sentence each."""

    failures: list[str]
    warnings: list[str]


def judge(sets: Mapping[str, Comparison], slices: Mapping[str, Comparison], gate: Gate, best: BestSoFar | None = None) -> Verdict:
    """Judges a model by its figures. Chance alone is never a reason against it.

    A set is under the floor where the interval of the full-sequence accuracy is, as a whole. A fall below the model in production counts
    where it is not by chance: on no set may it be more than `max_regression`, and less than that only if another set is read better, and
    that not by chance. No slice may fall by more than `max_slice_regression`, at a level shared among the slices (Bonferroni). Nor may the
    golden set be read more than `max_regression` below the best model so far: a row of models each a little worse than the one before
    would else pass. That one was the best of many partly by luck, so the level is shared among all of them (Bonferroni again).

    The newest span and the golden set do not judge where they have fewer pictures than `min_pictures`. All test pictures together always
    do, or a model that nobody has judged would be pushed.

    Args:
      sets: by name; ALL must be among them unless there are only some to be looked at.
      slices: by name.
      gate: the thresholds.
      best: None where there is no other model to compare with than that in production.
    """
    small = {name: it.count for name, it in sets.items() if it.count < gate.min_pictures}
    judging = {name: it for name, it in sets.items() if name not in small or name == ALL}
    failures, level = [], 1 - gate.confidence
    for name, it in judging.items():
        short = gate.min_sequence_accuracy
        if not it.candidate.upper >= short - _ROUNDING:  # NaN, where there is no picture, is under it too
            failures.append(f"{_on(name)} is {with_interval(it.candidate)}, under the floor of {short:.2%}")
    gained = any(it.gain > 0 and it.p_value is not None and it.p_value < level for it in judging.values())
    for name, it in judging.items():
        if it.falls_by_more(gate.max_regression, level):
            failures.append(
                f"{_on(name)} is {it.candidate.value:.2%}, {-it.gain:.2%} below that of the model in production, and not by chance "
                f"({_counts(it)}); {gate.max_regression:.2%} are allowed"
            )
        elif it.falls_by_more(0.0, level) and not gained:
            failures.append(
                f"{_on(name)} is below that of the model in production, and not by chance ({_counts(it)}); no other set is read better"
            )
    if best and best.comparison.count >= gate.min_pictures and best.comparison.falls_by_more(gate.max_regression, level / best.models):
        it = best.comparison
        failures.append(
            f"{_on(GOLDEN)} is {it.candidate.value:.2%}, {-it.gain:.2%} below that of version {best.version}, the best so far, and not by "
            f"chance ({_counts(it)}); {gate.max_regression:.2%} are allowed"
        )
    for name, it in slices.items():
        if it.falls_by_more(gate.max_slice_regression, level / len(slices)):
            failures.append(
                f"{_on(name)} has fallen by {-it.gain:.2%}, to {it.candidate.value:.2%} of {it.count:,}; "
                f"{gate.max_slice_regression:.2%} are allowed for one slice"
            )
    return Verdict(failures, [_too_few(name, count, gate.min_pictures) for name, count in small.items()])


def with_interval(rate: Rate) -> str:
    """Returns the rate and its interval in words."""
    return "unknown" if math.isnan(rate.value) else f"{rate.value:.2%} ({rate.lower:.2%} to {rate.upper:.2%})"


def _counts(it: Comparison) -> str:
    return f"{it.only_production} pictures are lost, {it.only_candidate} gained: p = {it.p_value:.2g}"


def _too_few(name: str, count: int, minimum: int) -> str:
    if name == ALL:
        return (
            f"there are only {count} test pictures, fewer than evaluator.min_pictures ({minimum}): their figures say little; "
            "`captcha-pipeline cross-validate` says more"
        )
    return f"the {name} has only {count} test pictures, fewer than evaluator.min_pictures ({minimum}): it does not judge"


def _on(name: str) -> str:
    return "the full-sequence accuracy" if name == ALL else f"the full-sequence accuracy on the {name}"
