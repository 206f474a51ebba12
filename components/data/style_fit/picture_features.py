"""Features of pictures: their backgrounds, ink, strokes and details as numbers, by which pictures can be compared."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

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
