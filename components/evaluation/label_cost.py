"""Estimates how many labels an accuracy needs, from fits to very different numbers of pictures.

Over a factor of a hundred, a power law (LearningCurve) holds only roughly. So each size of fits has its own curve, which is estimated from
the fits of this size and of the next smaller sizes. Between two sizes, the result is interpolated between the two curves.
"""

import functools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from components.evaluation.learning_curve import Estimate, Fitted, Floats, LearningCurve

_NEAR: Final = 2  # a curve is estimated from the fits of this many sizes: its own and the next smaller ones
_NEAR_END: Final = 3  # the curve of the largest size, which is also used to extrapolate, is estimated from this many sizes
_GRID: Final = 240  # numbers of labels at which `labels_for` looks
_BELOW: Final = 16  # the lowest of them is the size of the smallest fits divided by this


class LabelCost:
    """Accuracy by the number of labels, and labels by accuracy.

    Args:
      groups: at least one. Each has the fits to about equally many pictures; the group with the fewest pictures comes first.

    Attributes:
      fewest, most: the mean number of pictures of the smallest and of the largest fits.
      farthest: the largest finite number of labels that `labels_for` returns.
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
        # On a logarithmic scale: 0.0 at the first size, 1.0 at the second, 0.5 halfway between them, and so on.
        place = float(np.interp(math.log(labels), self._sizes, np.arange(len(self._sizes))))
        before, after = (self._curves[round_(place)].accuracy(round(labels)) for round_ in (math.floor, math.ceil))
        share = place % 1
        one, other = (np.array([it.value, it.lower, it.upper]) for it in (before, after))
        return Estimate(*((1 - share) * one + share * other).tolist())

    def labels_for(self, accuracy: float) -> Estimate:
        """Returns the number of labels with which a fit reaches a full-sequence accuracy.

        The bounds are the numbers of labels at which the upper and the lower bound of the method `accuracy` reach the value.

        Args:
          accuracy: above 0 and below 1.

        Returns:
          The number. It is infinite where it would be above `farthest`, and at least a sixteenth of `fewest`.
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
        """Increasing numbers of labels, float64 [_GRID], and the accuracy for each, its lower and its upper bound.

        Accuracies and bounds are made to never fall: each is the largest so far.
        """
        labels = np.geomspace(max(1, self.fewest / _BELOW), self.farthest, _GRID)
        shares = [self.accuracy(number) for number in labels.tolist()]
        values, lowers, uppers = np.maximum.accumulate([[it.value, it.lower, it.upper] for it in shares]).T
        return labels, values, lowers, uppers
