"""Measures how different two sets of pictures are: features of pictures, a distance, and a classifier two-sample test.

The test is that of Lopez-Paz and Oquab, "Revisiting classifier two-sample tests" (2017): a classifier learns to tell two samples apart. How
well it does on pictures that it has not seen, here measured as the area under the ROC curve, says how different the samples are.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

Floats = npt.NDArray[np.float32]

_BANDS_ACROSS: Final = 24  # vertical bands of a picture in which ink is counted, side by side
_BANDS_DOWN: Final = 12  # horizontal bands, one above the other
_DETAIL_BANDS: Final = 6  # bands in which fine detail is measured
_RUNS: Final = (2, 3, 4, 6, 9)  # lengths of runs of ink, in pixels
_ORIENTATIONS: Final = 8  # bins of a histogram of directions
_FILTERS: Final = 24  # random filters of 5 x 5 pixels
_AREAS: Final = (4, 12, 40)  # bounds between classes of connected pieces of ink, by area in pixels
# A pixel is ink if it differs from the background by more than both of these: levels of 0 to 255, and a share of the strongest ink.
_LEAST_INK: Final = 22.0
_OF_STRONGEST: Final = 0.2
_FOLDS: Final = 5  # of the classifier two-sample test
_FLOOR: Final = 0.05  # the least spread of a feature, relative to the mean size of all features with its name
_PLANE_PIXELS: Final = 2_000  # about this many pixels of a picture are used to fit a plane


def grounds(pixels: Floats, border: int = 0) -> Floats:
    """Fits a plane to the background of each channel of each picture.

    The method is iteratively reweighted least squares with Cauchy weights, whose scale shrinks, so that ink counts less and less.

    Args:
      pixels: float32 [N, height, width, 3], 0 to 255.
      border: width in pixels of a frame at the edges that is left out.

    Returns:
      float32 [N, 3, channels]: the level at the centre, its change from the left to the right edge, and from the upper to the lower edge.
    """
    count, height, width, _ = pixels.shape
    inner = np.zeros((height, width), bool)
    # A part of the pixels is enough for a plane. The steps across and down differ, so that regular stripes are not missed.
    step = max(1, round((height * width / _PLANE_PIXELS) ** 0.5))
    inner[border : height - border : step, border : width - border : step + (step > 1)] = True
    rows, columns = np.meshgrid(np.linspace(-0.5, 0.5, height), np.linspace(-0.5, 0.5, width), indexing="ij")
    design = np.stack([np.ones(inner.sum()), columns[inner], rows[inner]], axis=1).astype(np.float32)
    values = pixels[:, inner]
    # Most of a picture is background, so the median of its pixels is a good start.
    planes = np.zeros((count, 3, 3), np.float32)
    planes[:, 0] = np.median(values, axis=1)
    for scale in (60, 40, 25, 15, 10, 10):
        off = np.abs(values - design @ planes).max(axis=-1)
        weighted = design * (1 / (1 + (off / scale) ** 2))[..., np.newaxis]
        # A small ridge keeps the slopes of a picture with little background finite.
        planes = np.linalg.solve(design.T @ weighted + np.diag([1e-3, 1.0, 1.0]).astype(np.float32), weighted.transpose(0, 2, 1) @ values)
    return planes


def ink_of(pixels: Floats, planes: Floats) -> Floats:
    """Returns how much each pixel differs from the background, in the channel where it differs most: float32 [N, height, width].

    Args:
      pixels: float32 [N, height, width, 3], 0 to 255.
      planes: the backgrounds, from `grounds`.
    """
    height, width = pixels.shape[1:3]
    columns, rows = np.linspace(-0.5, 0.5, width, dtype=np.float32), np.linspace(-0.5, 0.5, height, dtype=np.float32)
    ground = (
        planes[:, np.newaxis, np.newaxis, 0]
        + planes[:, np.newaxis, np.newaxis, 1] * columns[:, np.newaxis]
        + planes[:, np.newaxis, np.newaxis, 2] * rows[:, np.newaxis, np.newaxis]
    )
    return np.abs(pixels - ground).max(axis=-1)


def is_ink(ink: Floats) -> npt.NDArray[np.bool_]:
    """Returns which pixels belong to text, lines or dots, bool [N, height, width].

    Args:
      ink: float32 [N, height, width], from `ink_of`.
    """
    strongest = np.percentile(ink, 99, axis=(1, 2), keepdims=True)
    return ink > np.maximum(_LEAST_INK, _OF_STRONGEST * strongest)


def features(pixels: Floats) -> tuple[Floats, list[str]]:
    """Returns features of pictures, float32 [N, F], and the name of each in words. Several features may share a name.

    Args:
      pixels: float32 [N, height, width, 3], 0 to 255; at least 16 x 16 pixels.
    """
    planes = grounds(pixels)
    ink = ink_of(pixels, planes)
    dark = is_ink(ink)
    grey = pixels.mean(axis=-1)
    inked = dark.sum(axis=(1, 2)).clip(1)[:, np.newaxis]
    parts: dict[str, npt.NDArray[np.floating]] = {
        "brightness": np.percentile(grey, (1, 5, 15, 30, 50, 70, 85, 95, 99), axis=(1, 2)).T,
        "colour of the background": planes[:, 0],
        "gradient of the background": planes[:, 1:].reshape(len(pixels), -1),
        "colour of the ink": _mean_where(pixels, dark),
        "variety of the ink's colours": _spread_where(pixels, dark),
        "colourfulness": np.percentile(np.ptp(pixels, axis=-1), (50, 80, 95), axis=(1, 2)).T,
        "roughness of the background": _ground_noise(grey, dark),
        "place of the ink, from left to right": _bands(dark.mean(axis=1), _BANDS_ACROSS),
        "place of the ink, from top to bottom": _bands(dark.mean(axis=2), _BANDS_DOWN),
        "amount of ink": np.concatenate([inked / dark[0].size, dark.any(axis=1).mean(axis=1)[:, np.newaxis]], axis=1),
        "length of strokes": _runs(dark) / inked,
        "direction of edges": _orientations(grey),
        "fine detail": _detail(grey),
        "specks and pieces": _pieces(dark),
        "blocks of JPEG": _blocks(grey),
        "edges of the picture": np.stack([grey[:, 0].mean(1), grey[:, -1].mean(1), grey[:, :, 0].mean(1), grey[:, :, -1].mean(1)], axis=1),
        "small patterns": _patterns(grey),
    }
    names = [name for name, part in parts.items() for _ in range(part.shape[1])]
    return np.concatenate([part.astype(np.float32) for part in parts.values()], axis=1), names


def _mean_where(pixels: npt.NDArray[Any], chosen: npt.NDArray[np.bool_]) -> Floats:
    weights = chosen[..., np.newaxis].astype(np.float32)
    return (pixels * weights).sum(axis=(1, 2)) / weights.sum(axis=(1, 2)).clip(1)


def _spread_where(pixels: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    mean = _mean_where(pixels, chosen)[:, np.newaxis, np.newaxis]
    return np.sqrt(_mean_where((pixels - mean) ** 2, chosen))


def _ground_noise(grey: Floats, dark: npt.NDArray[np.bool_]) -> Floats:
    """Mean difference of background pixels that are one, two and four columns apart: shows the noise, and how fine it is."""
    light = ~ndimage.binary_dilation(dark, np.ones((1, 3, 3), bool))
    found = []
    for step in (1, 2, 4):
        both = (light[:, :, step:] & light[:, :, :-step]).astype(np.float32)
        found.append((np.abs(grey[:, :, step:] - grey[:, :, :-step]) * both).sum(axis=(1, 2)) / both.sum(axis=(1, 2)).clip(1))
    # In units of 8 levels, so that differences that people cannot see count little.
    return np.stack(found, axis=1) / 8


def _bands(profiles: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.floating]:
    return np.stack([band.mean(axis=1) for band in np.array_split(profiles, min(count, profiles.shape[1]), axis=1)], axis=1)


def _runs(dark: npt.NDArray[np.bool_]) -> Floats:
    """How many runs of ink of each length in _RUNS there are: across, down, and along both diagonals. Longer runs contain shorter ones."""
    counts = []
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        mirrored = dark[:, :, ::-1] if across < 0 else dark
        for length in _RUNS:
            run = mirrored[:, : mirrored.shape[1] - down * (length - 1), : mirrored.shape[2] - abs(across) * (length - 1)].copy()
            for step in range(1, length):
                part = mirrored[:, down * step :, abs(across) * step :]
                run &= part[:, : run.shape[1], : run.shape[2]]
            counts.append(run.sum(axis=(1, 2)))
    return np.stack(counts, axis=1).astype(np.float32)


def _orientations(grey: Floats) -> Floats:
    """Histograms of the directions of gradients, weighted by strength, for the left, the middle and the right third of a picture."""
    down, across = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1], grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    strength = np.hypot(down, across)
    bins = ((np.arctan2(down, across) % np.pi) * (_ORIENTATIONS / np.pi)).astype(int) % _ORIENTATIONS
    found = []
    for strengths, of in zip(np.array_split(strength, 3, axis=2), np.array_split(bins, 3, axis=2), strict=True):
        found += [np.where(of == number, strengths, 0).mean(axis=(1, 2)) for number in range(_ORIENTATIONS)]
    return np.stack(found, axis=1)


def _detail(grey: Floats) -> Floats:
    """The logarithm of the mean absolute second difference, across and down, in bands from left to right."""
    across, down = np.abs(np.diff(grey, 2, axis=2)).mean(axis=1), np.abs(np.diff(grey, 2, axis=1)).mean(axis=1)
    return np.log1p(np.concatenate([_bands(across, _DETAIL_BANDS), _bands(down, _DETAIL_BANDS)], axis=1))


def _pieces(dark: npt.NDArray[np.bool_]) -> Floats:
    """Connected pieces of ink: their number by class of area, and in total; area, height and width of the largest; the mean height."""
    found = np.zeros((len(dark), len(_AREAS) + 6), np.float32)
    for row, picture in zip(found, dark, strict=True):
        labelled, count = ndimage.label(picture, np.ones((3, 3), int))
        if count:
            areas = np.bincount(labelled.ravel())[1:]
            boxes = [(box[0].stop - box[0].start, box[1].stop - box[1].start) for box in ndimage.find_objects(labelled)]
            largest = int(areas.argmax())
            row[: len(_AREAS) + 1] = np.histogram(areas, (0, *_AREAS, picture.size))[0]
            row[len(_AREAS) + 1 :] = (count, areas.max() / picture.size, *boxes[largest], np.mean([box[0] for box in boxes]))
    return found


def _blocks(grey: Floats) -> Floats:
    """How much larger the differences of neighbours are at the edges of JPEG's blocks of 8 x 8 pixels than elsewhere."""
    found = []
    for axis in (1, 2):
        steps = np.abs(np.diff(grey, axis=axis)).clip(0, 12).mean(axis=3 - axis)
        at_edge = np.arange(steps.shape[1]) % 8 == 7
        found.append(steps[:, at_edge].mean(axis=1) - steps[:, ~at_edge].mean(axis=1))
    return np.stack(found, axis=1)


_KERNELS: Final = np.random.default_rng(7).standard_normal((25, _FILTERS)).astype(np.float32)


def _patterns(grey: Floats) -> Floats:
    """Mean and deviation of the absolute responses of random filters. The weights of a filter sum to zero."""
    view = np.lib.stride_tricks.sliding_window_view
    windows = view(view(grey / 64, 5, axis=1), 5, axis=2)[:, ::2, ::2]
    responses = windows.reshape(len(grey), -1, 25) @ (_KERNELS - _KERNELS.mean(axis=0))
    strength = np.abs(responses)
    return np.log1p(np.concatenate([strength.mean(axis=1), strength.std(axis=1)], axis=1))


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
