"""Extrapolates how accuracy grows with the number of labels.

The model is a power law with a floor: with n training pictures, the mean number of misread characters in a text is a * n**-b + c (Hestness
et al., "Deep Learning Scaling is Predictable, Empirically", 2017, https://arxiv.org/abs/1712.00409; the floor c, and the levelling off at
few examples, as in Rosenfeld et al., "A Constructive Prediction of the Generalization Error Across Scales", 2020,
https://arxiv.org/abs/1909.12673). A text is misread if at least one of its characters is. If characters are misread independently, the
share of misread texts is 1 - exp(-(a * n**-b + c)).

Two fits to equally many pictures differ by more than the sampling error of a count. The number of misread texts therefore has a
beta-binomial distribution: the log-odds of an error vary from fit to fit. The posterior distribution of the parameters is computed on a
grid, without optimisation, so there is always an answer. With few fits, its interval is wide.

A model that has learned nothing says nothing about the power law: with a few more labels it may read half of the texts. Fits of a size at
which models read almost nothing are therefore left out.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import betaln

Floats = npt.NDArray[np.float64]

LEVEL: Final = 0.8  # the probability that an interval contains the true value
FARTHEST: Final = 50  # the curve ends at this many times the pictures of the largest fit; beyond that, a power law is a guess
# The exponent b has a log-normal prior. Measured on full sequences, it is 0.8 on drawn digits (250 and 3,000 labels), and 0.5 on a public
# set of four digits (249 and 3,392 labels). Hestness et al. found 0.07 to 0.35 on far larger data; 0.5 is the rate of a simple estimator.
_EXPONENT: Final = 0.65
_EXPONENT_SPREAD: Final = 0.5  # the standard deviation of its logarithm
_EXPONENTS: Final = np.geomspace(0.1, 4.0, 36)
# The number of misread characters of a text, at the largest fit, that more labels would remove. Its logarithm has a uniform prior.
_REMOVABLE: Final = np.geomspace(1e-4, 10.0, 70)
# The floor c, which no number of labels removes: for example, pictures that are labelled wrong or that nobody can read. It has a log-normal
# prior. A public set of six digits has 0.06 and one of four digits 0.02 (docs/recipe.md); drawn digits have less than 0.002.
_FLOOR: Final = 0.004
_FLOOR_SPREAD: Final = 1.5  # the standard deviation of its logarithm
_FLOORS: Final = np.geomspace(1e-5, 0.7, 24)
_NOTHING: Final = 0.05  # models that read a smaller share of the texts have learned nothing
_SIZES_PER_OCTAVE: Final = 2  # so many different sizes of fits are distinguished between a size and its double
# The standard deviation of the log-odds of an error, from fit to fit, at the largest fit.
_SPREADS: Final = np.array([0.05, 0.1, 0.2, 0.4])
_WIDEST: Final = 1.9  # the largest value of this standard deviation; with 2 or more, _beta would give no distribution
_DRAWS: Final = 4_000  # samples from the posterior distribution


@dataclass(frozen=True)
class Fitted:
    """The result of one fit.

    Attributes:
      fitted: the number of pictures that the model was fitted to.
      read: the number of other pictures that it read.
      misread: how many of these it misread.
    """

    fitted: int
    read: int
    misread: int


@dataclass(frozen=True)
class Estimate:
    """An estimated quantity.

    Attributes:
      value: the median.
      lower, upper: the bounds of the interval that contains the quantity with the probability LEVEL.
    """

    value: float
    lower: float
    upper: float


class LearningCurve:
    """The posterior distribution of learning curves, given the results of fits.

    Args:
      fits: at least one. A fit to far fewer pictures than the largest one counts less, because the power law holds only roughly.

    Attributes:
      farthest: the largest finite number of pictures that `pictures_for` returns.
      learned: whether any fits have learned something. If not, the estimates are of no use.
    """

    def __init__(self, fits: Sequence[Fitted]):
        self._largest = max(fit.fitted for fit in fits)
        able = [fit for fit in fits if fit.fitted > _most_without_effect(fits)]
        self.learned = bool(able)
        fits = able or fits
        self.farthest = FARTHEST * self._largest
        removable, exponent, floor, spread = np.meshgrid(_REMOVABLE, _EXPONENTS, _FLOORS, _SPREADS, indexing="ij", sparse=True)
        log_posterior = -0.5 * (np.log(exponent / _EXPONENT) / _EXPONENT_SPREAD) ** 2
        log_posterior = log_posterior - 0.5 * (np.log(floor / _FLOOR) / _FLOOR_SPREAD) ** 2
        for fit in fits:
            error = _error(removable, exponent, floor, fit.fitted / self._largest)
            right, wrong = _beta(error, self._spread(spread, fit.fitted))
            log_posterior = log_posterior + betaln(fit.misread + wrong, fit.read - fit.misread + right) - betaln(wrong, right)
        weights = np.exp(log_posterior - log_posterior.max()).ravel()
        # A fixed seed, so that the same fits always give the same answer.
        self._random = np.random.default_rng(1)
        chosen = self._random.choice(weights.size, _DRAWS, p=weights / weights.sum())
        places = np.unravel_index(chosen, log_posterior.shape)
        grids = (_REMOVABLE, _EXPONENTS, _FLOORS, _SPREADS)
        self._removable, self._exponent, self._floor, self._spreads = (grid[at] for grid, at in zip(grids, places, strict=True))

    def accuracy(self, pictures: int, read: int | None = None) -> Estimate:
        """Returns the full-sequence accuracy, 0 to 1, of one fit.

        Args:
          pictures: the number of pictures that the model is fitted to, at least 1.
          read: a number of other pictures. If it is given, the estimate is of the share of these that the model reads right, which also
            varies with the choice of the pictures.
        """
        rng = np.random.default_rng(2)
        right, wrong = _beta(self._errors(pictures), self._spread(self._spreads, pictures))
        accuracies = rng.beta(right, wrong)
        return _estimate(accuracies if read is None else rng.binomial(read, accuracies) / read)

    def pictures_for(self, accuracy: float) -> Estimate:
        """Returns the number of training pictures at which the mean full-sequence accuracy of fits reaches a value.

        Args:
          accuracy: above 0, at most 1.

        Returns:
          The number. It is infinite where it would be above `farthest`.
        """
        return self._pictures_for(np.array(accuracy))

    def pictures_like(self, other: "LearningCurve", pictures: int) -> Estimate:
        """Returns the number of pictures at which fits of this curve reach the mean accuracy of other fits.

        Args:
          other: the curve of the other fits, which were made independently.
          pictures: the number of pictures of the other fits.

        Returns:
          The number, as from `pictures_for`. Its interval includes what is not known about either curve.
        """
        # Both curves were sampled with the same random numbers. In another order, they are independent.
        return self._pictures_for(np.random.default_rng(3).permutation(1 - other._errors(pictures)))

    def _pictures_for(self, accuracy: Floats) -> Estimate:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            above_floor = -np.log(accuracy) - self._floor
            times = np.where(above_floor > 0, (above_floor / self._removable) ** (-1 / self._exponent), math.inf)
        return _estimate(np.where(times > FARTHEST, math.inf, self._largest * times))

    def _errors(self, pictures: int) -> Floats:
        """Returns samples of the mean error of fits to a number of pictures, float64 [_DRAWS]."""
        return _error(self._removable, self._exponent, self._floor, pictures / self._largest)

    def _spread(self, spread: Floats, pictures: int) -> Floats:
        distance = max(pictures / self._largest, self._largest / pictures)
        return np.minimum(spread * math.sqrt(distance), _WIDEST)


def _most_without_effect(fits: Sequence[Fitted]) -> int:
    """Returns the largest number of pictures of fits that have learned nothing; 0 if all fits have learned something."""
    sizes: dict[int, list[Fitted]] = defaultdict(list)
    for fit in fits:
        sizes[round(_SIZES_PER_OCTAVE * math.log2(fit.fitted))].append(fit)
    without = (some for some in sizes.values() if sum(fit.read - fit.misread for fit in some) < _NOTHING * sum(fit.read for fit in some))
    return max((fit.fitted for some in without for fit in some), default=0)


def round_up(number: float) -> int:
    """Returns a finite number rounded up to two digits, because an extrapolation is not more exact."""
    digits = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / digits) * digits


def _error(removable: Floats, exponent: Floats, floor: Floats, times: float) -> Floats:
    """Returns the share of misread texts, above 0 and below 1, after a fit to `times` as many pictures as the largest fit."""
    return np.clip(-np.expm1(-(removable * times**-exponent + floor)), 1e-9, 1 - 1e-9)


def _beta(error: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Returns both parameters of the beta distribution of the accuracy: its mean is 1 - error, `spread` the deviation of its log-odds."""
    size = 1 / (spread**2 * error * (1 - error)) - 1
    return (1 - error) * size, error * size


def _estimate(values: Floats) -> Estimate:
    # Each quantile is one of the values. An interpolation between a finite and an infinite value would be infinite.
    quantiles = (0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2)
    median, lower, upper = np.quantile(values, quantiles, method="nearest").tolist()
    return Estimate(median, lower, upper)
