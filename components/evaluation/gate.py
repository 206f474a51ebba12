"""Decides if a model is good enough to be pushed: compares its figures with floors and with the production model. No TensorFlow."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field

from components.base.section import Fraction, Section
from components.evaluation.metrics import Rate

# The sets of pictures. Each must be read well.
ALL: Final = "all"
NEWEST: Final = "newest span"
GOLDEN: Final = "golden set"
# The golden set, compared with the pushed model that has read it best: components/evaluation/golden.py.
BEST: Final = "golden set, best so far"

# A tolerance, because shares are quotients of counts: 0.990 - 0.995 is slightly below -0.005.
_ROUNDING: Final = 1e-9


@dataclasses.dataclass(frozen=True)
class SetResult:
    """The full-sequence accuracy of a candidate model and of another model on the same pictures.

    Attributes:
      candidate: the accuracy of the candidate model.
      production: that of the production model or, on BEST, of the best model so far; None without such a model.
      p_value: of the comparison; None without such a model.
      count: the number of pictures.
    """

    candidate: Rate
    production: Rate | None
    p_value: float | None
    count: int

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "SetResult":
        """Returns the result that `dataclasses.asdict` turned into `tree`."""
        tree = {"candidate": tree.get("challenger"), "production": tree.get("champion"), **tree}  # the keys of release 0.1
        production = tree["production"] and Rate(**tree["production"])
        return cls(Rate(**tree["candidate"]), production, tree["p_value"], tree["count"])


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The full-sequence accuracy of a candidate model on some pictures, compared with another model on the same pictures.

    Attributes:
      count: the number of pictures.
      candidate: the accuracy of the candidate model.
      production: that of the other model; None without such a model.
      only_candidate: the number of pictures that only the candidate model reads without error.
      only_production: the number of pictures that only the other model reads without error.
    """

    count: int
    candidate: Rate
    production: Rate | None = None
    only_candidate: int = 0
    only_production: int = 0

    @property
    def gain(self) -> float:
        """The accuracy of the candidate model minus that of the other model; 0 without another model."""
        return self.candidate.value - self.production.value if self.production else 0.0

    @functools.cached_property
    def p_value(self) -> float | None:
        """The probability of counts at least this uneven if the two models are equally good; None without another model.

        McNemar's test in its exact form, two-sided (McNemar 1947, "Note on the Sampling Error of the Difference Between Correlated
        Proportions or Percentages").
        """
        if self.production is None:
            return None
        discordant = self.only_candidate + self.only_production
        from scipy.stats import binomtest  # here, because its import takes longer than everything that most commands do

        return float(binomtest(self.only_candidate, discordant).pvalue) if discordant else 1.0

    def falls_by_more(self, margin: float, level: float) -> bool:
        """Returns whether the candidate model is more than `margin` below the other model, and significantly so at this level."""
        return self.gain < -margin - _ROUNDING and self.p_value is not None and self.p_value < level

    @property
    def summary(self) -> "SetResult":
        """The part of the comparison that is stored."""
        return SetResult(self.candidate, self.production, self.p_value, self.count)


@dataclasses.dataclass(frozen=True)
class BestSoFar:
    """A candidate model compared on the golden set with `version`, the best of all `models` that have been pushed so far."""

    comparison: Comparison
    version: int
    models: int


class Gate(Section):
    """The thresholds that a model must meet: the section `evaluator` of the configuration."""

    min_sequence_accuracy: Fraction = Field(0.98, description="the floor: a model is not blessed if its whole interval is under it")
    max_regression: Fraction = Field(0.005, description="the largest significant fall below the production model that is allowed")
    max_slice_regression: Fraction = Field(0.05, description="the largest significant fall in a single slice that is allowed")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals; a difference is significant if p < 1 - confidence")
    min_pictures: int = Field(50, ge=1, description="a newest span or golden set with fewer test pictures warns and is not used to judge")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The reasons against a push, and warnings about the figures. Each is a sentence without a full stop."""

    failures: list[str]
    warnings: list[str]


def judge(sets: Mapping[str, Comparison], slices: Mapping[str, Comparison], gate: Gate, best: BestSoFar | None = None) -> Verdict:
    """Judges a candidate model by its figures. Only significant differences count against it.

    A set is under the floor if the whole interval of its full-sequence accuracy is. Only a significant fall below the production model
    counts. On no set may it be more than `max_regression`. A smaller one is allowed only if another set is read significantly better. No
    slice may fall by more than `max_slice_regression`, at a level shared among the slices (Bonferroni). The golden set may not be read more
    than `max_regression` below the best model so far, because otherwise a series of models, each slightly worse than the one before, would
    pass. The best of many models is partly the best by luck, so the level is shared among all of them (Bonferroni again).

    The newest span and the golden set do not judge if they have fewer than `min_pictures` pictures. All test pictures together always
    judge, because otherwise a model without any judgement would be pushed.

    Args:
      sets: by name. They include ALL, unless only a part of the sets is of interest.
      slices: by name.
      gate: the thresholds.
      best: None if the production model is the only model to compare with.
    """
    small = {name: it.count for name, it in sets.items() if it.count < gate.min_pictures}
    judging = {name: it for name, it in sets.items() if name not in small or name == ALL}
    failures, level = [], 1 - gate.confidence
    for name, it in judging.items():
        short = gate.min_sequence_accuracy
        if not it.candidate.upper >= short - _ROUNDING:  # NaN, the result without pictures, is under the floor too
            failures.append(f"{_on(name)} is {with_interval(it.candidate)}, under the floor of {short:.2%}")
    gained = any(it.gain > 0 and it.p_value is not None and it.p_value < level for it in judging.values())
    for name, it in judging.items():
        if it.falls_by_more(gate.max_regression, level):
            failures.append(
                f"{_on(name)} is {it.candidate.value:.2%}, {-it.gain:.2%} below that of the production model, a significant difference "
                f"({_counts(it)}); at most {gate.max_regression:.2%} is allowed"
            )
        elif it.falls_by_more(0.0, level) and not gained:
            failures.append(
                f"{_on(name)} is significantly below that of the production model ({_counts(it)}); no other set is significantly better"
            )
    if best and best.comparison.count >= gate.min_pictures and best.comparison.falls_by_more(gate.max_regression, level / best.models):
        it = best.comparison
        failures.append(
            f"{_on(GOLDEN)} is {it.candidate.value:.2%}, {-it.gain:.2%} below that of version {best.version}, the best so far, a "
            f"significant difference ({_counts(it)}); at most {gate.max_regression:.2%} is allowed"
        )
    for name, it in slices.items():
        if it.falls_by_more(gate.max_slice_regression, level / len(slices)):
            failures.append(
                f"{_on(name)} has fallen by {-it.gain:.2%}, to {it.candidate.value:.2%} of {it.count:,} pictures; "
                f"at most {gate.max_slice_regression:.2%} is allowed for a slice"
            )
    return Verdict(failures, [_too_few(name, count, gate.min_pictures) for name, count in small.items()])


def with_interval(rate: Rate) -> str:
    """Returns the rate and its interval as text."""
    return "unknown" if math.isnan(rate.value) else f"{rate.value:.2%} ({rate.lower:.2%} to {rate.upper:.2%})"


def _counts(it: Comparison) -> str:
    return f"{it.only_production} pictures lost, {it.only_candidate} gained: p = {it.p_value:.2g}"


def _too_few(name: str, count: int, minimum: int) -> str:
    if name == ALL:
        return (
            f"there are only {count} test pictures, fewer than evaluator.min_pictures ({minimum}): their figures are uncertain; "
            "`captcha-pipeline cross-validate` gives more certain ones"
        )
    return f"the {name} has only {count} test pictures, fewer than evaluator.min_pictures ({minimum}): it is not used to judge the model"


def _on(name: str) -> str:
    return "the full-sequence accuracy" if name == ALL else f"the full-sequence accuracy on the {name}"
