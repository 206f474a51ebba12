"""The accuracy of the models of a labelling, how it grew with the labels, and how many more labels a goal needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import minimize

from components.evaluation.advice import ERRORS_BY_LABELS
from components.evaluation.metrics import Rate, wilson_interval

_SPREAD: Final = 0.15  # of the power: most measured ones are within twice this
_MOST_LABELS: Final = 50  # times as many: no larger factor was measured
_UNIT: Final = 10  # smaller ones would pretend to be exact
_TINY: Final = 1e-6


@dataclass(frozen=True)
class Point:
    """How a model reads random pictures that it was not made with.

    Attributes:
      version: of the model.
      labels: the number of labelled pictures when its training began.
      right: the number of random pictures that it reads right.
      count: the number of random pictures.
    """

    version: int
    labels: int
    right: int
    count: int

    def rate(self, confidence: float) -> Rate:
        """Returns the full-sequence accuracy with its interval of this confidence, such as 0.95."""
        return wilson_interval(self.right, self.count, confidence)


def more_labels(points: Sequence[Point], goal: float) -> int | None:
    """Returns about how many more labels a goal needs; 0 if it is reached, None if that cannot be said.

    The share of errors falls with a power of the number of labels. Its level and its power are the most probable ones, given all models so
    far. A few test pictures say little about the power, so it starts from the power that was measured on other data: a normal prior.

    Args:
      points: of all models, oldest first.
      goal: the full-sequence accuracy to reach, 0 to 1.
    """
    known = [point for point in points if point.count and point.labels]
    if not known or goal >= 1:
        return None
    last = known[-1]
    if last.right >= goal * last.count:
        return 0
    labels = np.array([point.labels for point in known], float) / last.labels
    counts = np.array([point.count + 1 for point in known], float)  # half a picture of each kind more: no share of errors is then 0
    wrong = np.array([point.count - point.right + 0.5 for point in known])

    def surprise(parameters: np.ndarray) -> float:
        shares = np.clip(np.exp(parameters[0] + parameters[1] * np.log(labels)), _TINY, 1 - _TINY)
        likelihood = wrong @ np.log(shares) + (counts - wrong) @ np.log1p(-shares)
        return float((parameters[1] - ERRORS_BY_LABELS) ** 2 / (2 * _SPREAD**2) - likelihood)

    level, power = minimize(surprise, [math.log(wrong[-1] / counts[-1]), ERRORS_BY_LABELS], method="Nelder-Mead").x
    times = math.exp((math.log(1 - goal) - level) / min(power, -_SPREAD))
    if times > _MOST_LABELS:
        return None
    return max(_rounded(last.labels * (times - 1)), _UNIT)


def outlook(points: Sequence[Point], goal: float, confidence: float, left: int) -> str:
    """Returns in a sentence what a goal needs; "" before the first model is measured.

    Args:
      points, goal: as for `more_labels`.
      confidence: of the intervals, such as 0.95.
      left: the number of pictures that can still be labelled.
    """
    known = [point for point in points if point.count]
    if not known:
        return ""
    aim = f"{100 * goal:g} %"
    needed = more_labels(known, goal)
    if needed is None:
        return f"It cannot be said yet how many labels {aim} needs: many times as many as there are."
    if needed:
        about = f"About {needed:,} more labels to reach {aim}"
        return f"{about}." if needed <= left else f"{about}; the folder has only {left:,} pictures left."
    if known[-1].rate(confidence).lower >= goal:
        return f"The goal of {aim} is reached."
    return f"The goal of {aim} is probably reached; more labels would make it certain."


def _rounded(number: float) -> int:
    """Returns a number rounded up to two digits and zeros, and to tens."""
    unit = max(10 ** (math.floor(math.log10(max(number, 1))) - 1), _UNIT)
    return math.ceil(number / unit) * unit
