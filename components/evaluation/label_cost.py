"""What an accuracy costs in labels, from fits to very different numbers of pictures.

A power law (LearningCurve) holds only roughly over a factor of a hundred. So there is a curve for each size of the fits, from the fits of
this size and of the next smaller ones. Between two sizes, the answer goes over from the curve of the one to that of the other.
"""

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from components.evaluation.learning_curve import Estimate, Fitted, Floats, LearningCurve

_NEAR: Final = 2  # sizes that make a curve
_NEAR_END: Final = 3  # that make the last curve, which also says what follows
_GRID: Final = 240  # numbers of labels
_BELOW: Final = 16  # times fewer than the smallest fit has


class LabelCost:
    """Accuracy by the number of labels, and labels by accuracy.

    Args:
      groups: at least one, each with the fits to about equally many pictures, the smallest fits first.

    Attributes:
      fewest, most: the mean number of pictures of the smallest and of the largest fits.
      farthest: the largest number of labels that `labels_for` returns.
    """

    def __init__(self, groups: Sequence[Sequence[Fitted]]):
        self._sizes = np.log([sum(fit.fitted for fit in group) / len(group) for group in groups])
        near = [*[_NEAR] * (len(groups) - 1), _NEAR_END]
        nearest = (groups[max(0, place + 1 - sizes) : place + 1] for place, sizes in enumerate(near))
        self._curves = [LearningCurve([fit for group in some for fit in group]) for some in nearest]
        self.fewest, self.most = (round(math.exp(self._sizes[place])) for place in (0, -1))
        self.farthest = self._curves[-1].farthest

    def accuracy(self, labels: float) -> Estimate:
        """Returns the full-sequence accuracy, 0 to 1, of one fit to a number of labels, at least 1."""
        # 0.0 at the first size, 0.5 halfway to the second one on a logarithmic scale, 1.0 there.
        place = float(np.interp(math.log(labels), self._sizes, np.arange(len(self._sizes))))
        before, after = (self._curves[round_(place)].accuracy(round(labels)) for round_ in (math.floor, math.ceil))
        share = place % 1
        one, other = (np.array([it.value, it.lower, it.upper]) for it in (before, after))
        return Estimate(*((1 - share) * one + share * other).tolist())

    def labels_for(self, accuracy: float) -> Estimate:
        """Returns the number of labels with which a fit reaches an accuracy, above 0 and below 1.

        The bounds are the numbers at which the upper and the lower bound of `accuracy` reach it. A number above `farthest` is infinite; one
        far below `fewest` is the lowest that was tried.
        """
        labels, values, lowers, uppers = self._grid

        def reached(shares: Floats) -> float:
            above = int(np.searchsorted(shares, accuracy))
            if above == len(shares):
                return math.inf
            if above == 0:
                return float(labels[0])
            between = slice(above - 1, above + 1)
            return float(np.exp(np.interp(accuracy, shares[between], np.log(labels[between]))))

        return Estimate(reached(values), reached(uppers), reached(lowers))

    @functools.cached_property
    def _grid(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Numbers of labels, and the accuracy there, its lower and its upper bound, none of which falls."""
        labels = np.geomspace(max(1, self.fewest / _BELOW), self.farthest, _GRID)
        shares = [self.accuracy(number) for number in labels.tolist()]
        values, lowers, uppers = np.maximum.accumulate([[it.value, it.lower, it.upper] for it in shares]).T
        return labels, values, lowers, uppers
