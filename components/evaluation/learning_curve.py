"""Extrapolates how accuracy grows with the number of labels.

The mean number of misread characters in a text falls with the number n of training pictures as a power law with a floor, a * n**-b + c
(Hestness et al., "Deep Learning Scaling is Predictable, Empirically", 2017, https://arxiv.org/abs/1712.00409; the floor and the levelling
off at few examples as in Rosenfeld et al., "A Constructive Prediction of the Generalization Error Across Scales", 2020,
https://arxiv.org/abs/1909.12673). A text is misread if a character is. With characters misread independently, the share of misread texts is
1 - exp(-(a * n**-b + c)).

Two fits to equally many pictures differ by more than the chance of a count. The number of misread texts therefore has a beta-binomial
distribution: the log-odds of an error vary from fit to fit. The parameters have a posterior distribution on a grid. Nothing is optimised,
so there is always an answer, and with few fits its interval is wide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

Floats = npt.NDArray[np.float64]

LEVEL: Final = 0.8  # of the intervals
FARTHEST: Final = 50  # times the pictures of the largest fit; beyond, a power law is a guess
# The exponent b: log-normal. Measured on full sequences: 0.8 on drawn digits (250 and 3,000 labels), 0.5 on a public set of four digits
# (249 and 3,392 labels). Hestness et al. found 0.07 to 0.35 on far larger data; 0.5 is the rate of a simple estimator.
_EXPONENT: Final = 0.65
_EXPONENT_SPREAD: Final = 0.5  # of its logarithm
_EXPONENTS: Final = np.geomspace(0.1, 4.0, 36)
# The misread characters of a text, at the largest fit, that more labels would remove: any order of magnitude is as likely as another.
_REMOVABLE: Final = np.geomspace(1e-4, 10.0, 70)
# Those that no number of labels removes, such as of pictures that are labelled wrong or that nobody can read: log-normal. A public set of
# four digits has 0.02 (docs/recipe.md), drawn digits have less than 0.002.
_FLOOR: Final = 0.002
_FLOOR_SPREAD: Final = 1.2  # of its logarithm
_FLOORS: Final = np.geomspace(1e-5, 0.2, 16)
# The standard deviation of the log-odds of an error from fit to fit.
_SPREADS: Final = np.array([0.05, 0.1, 0.2, 0.4])
_WIDEST: Final = 1.9  # a beta distribution has no larger one
_DRAWS: Final = 4_000


@dataclass(frozen=True)
class Fitted:
    """The result of one fit: the number of pictures fitted to, of other pictures read, and of these, the number that was misread."""

    fitted: int
    read: int
    misread: int


@dataclass(frozen=True)
class Estimate:
    """The median of a quantity, and the bounds of its interval of LEVEL."""

    value: float
    lower: float
    upper: float


class LearningCurve:
    """The posterior distribution of learning curves, given the results of fits.

    Args:
      fits: at least one. The further a fit is from the largest one, in the logarithm of its number of pictures, the less it counts, because
        the power law holds only roughly: few labels often teach nothing at all.

    Attributes:
      farthest: the largest number of pictures that `pictures_for` returns.
    """

    def __init__(self, fits: Sequence[Fitted]):
        self._largest = max(fit.fitted for fit in fits)
        self.farthest = FARTHEST * self._largest
        removable, exponent, floor, spread = np.meshgrid(_REMOVABLE, _EXPONENTS, _FLOORS, _SPREADS, indexing="ij", sparse=True)
        log_posterior = -0.5 * (np.log(exponent / _EXPONENT) / _EXPONENT_SPREAD) ** 2
        log_posterior = log_posterior - 0.5 * (np.log(floor / _FLOOR) / _FLOOR_SPREAD) ** 2
        for fit in fits:
            error = _error(removable, exponent, floor, fit.fitted / self._largest)
            right, wrong = _beta(error, self._spread(spread, fit.fitted))
            log_posterior = log_posterior + betaln(fit.misread + wrong, fit.read - fit.misread + right) - betaln(wrong, right)
        weights = np.exp(log_posterior - log_posterior.max()).ravel()
        # The same fits give the same answer.
        self._random = np.random.default_rng(1)
        chosen = self._random.choice(weights.size, _DRAWS, p=weights / weights.sum())
        places = np.unravel_index(chosen, log_posterior.shape)
        grids = (_REMOVABLE, _EXPONENTS, _FLOORS, _SPREADS)
        self._removable, self._exponent, self._floor, self._spreads = (grid[at] for grid, at in zip(grids, places, strict=True))

    def accuracy(self, pictures: int) -> Estimate:
        """Returns the full-sequence accuracy, 0 to 1, of one fit to this many pictures."""
        error = _error(self._removable, self._exponent, self._floor, pictures / self._largest)
        right, wrong = _beta(error, self._spread(self._spreads, pictures))
        return _estimate(np.random.default_rng(2).beta(right, wrong))

    def pictures_for(self, accuracy: float) -> Estimate:
        """Returns the number of training pictures with which fits reach a full-sequence accuracy on average.

        Args:
          accuracy: above 0, at most 1.

        Returns:
          A number above `farthest` is infinite.
        """
        above_floor = -math.log(accuracy) - self._floor
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            times = np.where(above_floor > 0, (above_floor / self._removable) ** (-1 / self._exponent), math.inf)
        return _estimate(np.where(times > FARTHEST, math.inf, self._largest * times))

    def _spread(self, spread: Floats, pictures: int) -> Floats:
        distance = max(pictures / self._largest, self._largest / pictures)
        return np.minimum(spread * math.sqrt(distance), _WIDEST)


def round_up(number: float) -> int:
    """Returns a number rounded up to two digits, because an extrapolation has no more."""
    digits = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / digits) * digits


def _error(removable: Floats, exponent: Floats, floor: Floats, times: float) -> Floats:
    """Returns the share of misread texts after a fit to `times` as many pictures as the largest fit, above 0 and below 1."""
    return np.clip(-np.expm1(-(removable * times**-exponent + floor)), 1e-9, 1 - 1e-9)


def _beta(error: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Returns the parameters of the beta distribution of the accuracy: mean 1 - error, and `spread` as the deviation of its log-odds."""
    size = 1 / (spread**2 * error * (1 - error)) - 1
    return (1 - error) * size, error * size


def _estimate(values: Floats) -> Estimate:
    # Quantiles that are values themselves, because a mean with an infinite value is infinite.
    quantiles = (0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2)
    median, lower, upper = np.quantile(values, quantiles, method="nearest").tolist()
    return Estimate(median, lower, upper)
