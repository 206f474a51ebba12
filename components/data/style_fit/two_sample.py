"""Measures how different two sets of pictures are, by their features: a distance, and a classifier two-sample test.

The test is that of Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017): a classifier learns to tell two samples apart. How
well it does on pictures that it has not seen, here measured as the area under the ROC curve, says how different the samples are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.data.style_fit.picture_features import Floats

_FOLDS: Final = 5  # of the classifier two-sample test
_FLOOR: Final = 0.05  # the least spread of a feature, relative to the mean size of all features with its name


class Distance:
    """Measures how different other samples are from one sample of pictures. It compares the distribution of each feature on its own."""

    def __init__(self, sample: Floats, names: Sequence[str]):
        """Args:
        sample: features of the pictures, float32 [N, F].
        names: of the F features. Every name has the same weight, which the features with this name share.
        """
        self._levels = np.linspace(0.05, 0.95, 10)
        self._quantiles = np.quantile(sample, self._levels, axis=0)
        spread = np.quantile(sample, 0.9, axis=0) - np.quantile(sample, 0.1, axis=0)
        # A feature that hardly varies in the sample is scaled by the mean size of the features with its name.
        sizes = {name: float(np.abs(sample[:, [other == name for other in names]]).mean()) for name in set(names)}
        self._scale = np.maximum(spread, [_FLOOR * sizes[name] + 0.02 for name in names])
        counts = Counter(names)
        self._weights = np.array([1 / (counts[name] * len(counts)) for name in names])

    def __call__(self, other: Floats) -> float:
        """Returns the distance of another sample, 0 or more.

        For each feature, the distance is the mean absolute difference of ten quantiles (an approximation of the first Wasserstein distance)
        divided by the spread of the feature, and at most 3. The result is the weighted mean over the features.

        Args:
          other: features of the other sample, float32 [M, F].
        """
        off = np.abs(np.quantile(other, self._levels, axis=0) - self._quantiles).mean(axis=0) / self._scale
        return float(np.minimum(off, 3.0) @ self._weights)


@dataclass(frozen=True)
class Comparison:
    """How well a classifier tells two samples apart.

    Attributes:
      auc: the area under the ROC curve: 0.5 if the classifier can only guess, 1 if it is always right.
      lower, upper: the 95 % interval of `auc`.
      signs: names of features and their share in the decision, the largest share first. The shares sum to 1.
      scores: float [N], the score of each picture of the first sample: the higher, the less it looks like the second sample.
    """

    auc: float
    lower: float
    upper: float
    signs: list[tuple[str, float]]
    scores: npt.NDArray[np.floating]


def compare(judged: Floats, drawn: Floats, more: Floats, names: Sequence[str]) -> Comparison:
    """Measures how well a linear classifier tells two samples apart. By cross-validation, no picture is judged by a classifier that saw it.

    The classifier is linear discriminant analysis with the shrinkage of Ledoit and Wolf (2004). The interval is that of Hanley and McNeil
    (1982). It does not include the randomness that comes from training the classifier.

    Args:
      judged: features of the first sample, float32 [N, F].
      drawn: features of the second sample, float32 [M, F].
      more: features of more pictures like the first sample, float32 [K, F]. The classifier learns from them, but does not judge them. K may
        be 0.
      names: of the F features.
    """
    folds, of_drawn = np.arange(len(judged)) % _FOLDS, np.arange(len(drawn)) % _FOLDS
    scores, aucs, weights, shares = np.zeros(len(judged)), [], [], np.zeros(judged.shape[1])
    for fold in range(_FOLDS):
        here, there = folds == fold, of_drawn == fold
        if not here.any():
            continue
        first, second = np.concatenate([judged[~here], more]), drawn[~there]
        mean, scale = np.concatenate([first, second]).mean(axis=0), np.concatenate([first, second]).std(axis=0) + 1e-6
        direction, middle = _discriminant((first - mean) / scale, (second - mean) / scale)
        scores[here] = (judged[here] - mean) / scale @ direction - middle
        others = (drawn[there] - mean) / scale @ direction - middle
        aucs.append(auc(scores[here], others))
        weights.append(here.sum())
        shares += np.abs(direction * ((first - second.mean(axis=0)) / scale).mean(axis=0))
    area = float(np.average(aucs, weights=weights))
    lower, upper = _interval(area, len(judged), len(drawn))
    signs = {name: float(shares[[other == name for other in names]].sum() / max(shares.sum(), 1e-12)) for name in dict.fromkeys(names)}
    return Comparison(area, lower, upper, sorted(signs.items(), key=lambda sign: -sign[1]), scores)


def auc(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Returns the area under the ROC curve: the probability that a value of `first` is above one of `second`; equal values count half."""
    ranks = stats.rankdata(np.concatenate([first, second]))[: len(first)]
    return float((ranks.sum() - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


def _discriminant(first: Floats, second: Floats) -> tuple[Floats, float]:
    """Returns the direction of linear discriminant analysis, float32 [F], and the midpoint of the two means along it."""
    means = first.mean(axis=0), second.mean(axis=0)
    # Both samples have the same weight, whatever their sizes.
    spread = [(sample - mean) / np.sqrt(2 * len(sample)) for sample, mean in zip((first, second), means, strict=True)]
    centred = np.concatenate(spread)
    direction = np.linalg.solve(_shrunk(centred), means[0] - means[1])
    return direction, float((means[0] + means[1]) @ direction / 2)


def _shrunk(centred: Floats) -> Floats:
    """Returns a covariance matrix, float32 [F, F], shrunk towards a multiple of the identity.

    Args:
      centred: float32 [N, F], scaled so that the covariance is centred.T @ centred.
    """
    covariance = centred.T @ centred
    count, size = centred.shape
    level = np.trace(covariance) / size
    distance = ((covariance - level * np.eye(size, dtype=np.float32)) ** 2).sum()
    # The estimated squared error of the covariance: how much the outer products of the single rows vary around it.
    squares = (centred**2).sum(axis=1)
    error = max(0.0, float((squares**2).sum() - (covariance**2).sum() / count))
    shrinkage = min(1.0, error / max(float(distance), 1e-12))
    return (1 - shrinkage) * covariance + (shrinkage * level + 1e-6) * np.eye(size, dtype=np.float32)


def _interval(area: float, first: int, second: int) -> tuple[float, float]:
    """Returns the 95 % interval of an area under the ROC curve, from samples of `first` and `second` pictures."""
    one, both = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (first - 1) * (one - area**2) + (second - 1) * (both - area**2)) / (first * second)
    # For an area of 1 the formula gives a variance of 0, which is too certain, so the standard error is at least this.
    off = 1.96 * max(variance, 1 / (4 * (first + 4) ** 2)) ** 0.5
    return max(0.0, area - off), min(1.0, area + off)
