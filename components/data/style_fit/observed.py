"""Turns values that were measured in pictures into ranges and palettes of a style."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from components.data.drawing.style import Colour, Palette

OUTER: Final = (8, 92)  # the percentiles of the measured values between which a range lies
SAME: Final = 14.0  # levels of 0 to 255; colours that differ by less than this count as one colour
_COLOURS: Final = 24  # the largest number of colours of a palette


def palette_of(colours: npt.NDArray[np.floating], most: int = _COLOURS) -> Palette:
    """Returns the palette of measured colours: one colour if they hardly differ, otherwise some of them, from dark to bright.

    Args:
      colours: float [N, 3], RGB, 0 to 255; N is at least 1.
      most: the largest number of colours in the palette.
    """
    spread = np.ptp(np.percentile(colours, OUTER, axis=0), axis=0).max()
    if spread < SAME:
        return Palette(colours=(rgb(np.median(colours, axis=0)),), spread=round(spread / 2))
    ordered = colours[np.argsort(colours.sum(axis=1), kind="stable")]
    chosen = ordered[np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)]
    return Palette(colours=tuple(dict.fromkeys(map(rgb, chosen))), spread=8)


def rgb(colour: npt.NDArray[np.floating]) -> Colour:
    """Returns a colour, float [3], with its channels rounded to whole numbers from 0 to 255."""
    red, green, blue = (int(value) for value in colour.round().clip(0, 255))
    return red, green, blue


def range_of(values: Any, percentiles: tuple[int, int] = OUTER) -> tuple[float, float]:
    """Returns the range between two percentiles of some values, rounded to tenths."""
    low, high = (round(float(value), 1) for value in np.percentile(values, percentiles))
    return low, high


def counts_of(counts: npt.NDArray[np.floating]) -> tuple[int, int]:
    """Returns the range between the OUTER percentiles of some counts, float [N], in whole numbers."""
    low, high = range_of(counts)
    return round(low), round(high)
