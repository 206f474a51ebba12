"""How the accuracy of the models grew with the number of labels, and how many more labels are needed to reach a goal."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from components.evaluation.learning_curve import Fitted, LearningCurve, round_up
from components.evaluation.metrics import Rate, wilson_interval

_UNIT: Final = 10  # the number of further labels is a multiple of this, because the estimate is not more exact


@dataclass(frozen=True)
class Point:
    """How a model reads labelled random pictures that its training did not use.

    Attributes:
      version: of the model.
      labels: the number of labels when its training began; 0 if it is not known.
      right: the number of these random pictures that the model reads right.
      count: the number of these random pictures.
    """

    version: int
    labels: int
    right: int
    count: int

    def rate(self, confidence: float) -> Rate:
        """Returns the full-sequence accuracy with its interval; `confidence` is that of the interval, such as 0.95."""
        return wilson_interval(self.right, self.count, confidence)


def more_labels(points: Sequence[Point], goal: float, labels: int) -> int | None:
    """Returns about how many more labels are needed to reach a goal: the median estimate of `LearningCurve`.

    The result is 0 if the newest model has reached the goal. It is None if nothing can be estimated: no model with labels was measured, no
    model has learned anything, the goal is 1, or it is beyond what `LearningCurve` extrapolates.

    Args:
      points: of all models, oldest first.
      goal: the full-sequence accuracy to reach, 0 to 1.
      labels: the number of labels now.
    """
    measured = [point for point in points if point.count]
    if not measured or goal >= 1:
        return None
    last = measured[-1]
    if last.right >= goal * last.count:
        return 0
    # A model that was made without labels of the folder, such as the one in production, is no point of the curve.
    known = tuple(point for point in measured if point.labels)
    if not known:
        return None
    curve = _curve(known)
    needed = curve.pictures_for(goal).value if curve.learned else math.inf
    return None if math.isinf(needed) else max(_UNIT * math.ceil(round_up(needed - labels) / _UNIT), _UNIT)


@functools.lru_cache(1)  # the page asks for it with each picture, and it changes rarely
def _curve(points: tuple[Point, ...]) -> LearningCurve:
    return LearningCurve([Fitted(point.labels, point.count, point.count - point.right) for point in points])


def outlook(points: Sequence[Point], goal: float, confidence: float, labels: int, left: int) -> str:
    """Returns a sentence about the labels that a goal needs; "" before the first model is measured.

    Args:
      points, goal, labels: as for `more_labels`.
      confidence: of the intervals, such as 0.95.
      left: the number of pictures that can still be labelled.
    """
    known = [point for point in points if point.count]
    if not known:
        return ""
    aim = f"{100 * goal:g} %"
    needed = more_labels(known, goal, labels)
    if needed is None:
        return f"The number of labels for {aim} cannot be estimated yet; it may be many times the present number."
    if needed:
        about = f"About {needed:,} more labels to reach {aim}"
        return f"{about}." if needed <= left else f"{about}; the folder has only {left:,} pictures left."
    last = known[-1]
    if last.rate(confidence).lower >= goal:
        return f"The goal of {aim} is reached."
    if last.count * (1 - goal) < 1:  # even a model that is not good enough would probably misread none of so few
        return f"The newest model reads {last.right} of {last.count} random pictures right. More labels will show whether it reaches {aim}."
    return f"The goal of {aim} is probably reached; more labels would make it certain."
