"""Measures the lines and dots in pictures: the ink that is not text."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from components.data.drawing.style import DotStyle, LineStyle
from components.data.style_fit.observed import counts_of, palette_of, range_of
from components.data.style_fit.picture_features import Floats

_AROUND: Final = 12  # ink closer to a character than the height divided by this counts as part of the character
_SPECK: Final = 2  # pieces of ink with this many pixels or fewer are ignored: JPEG compression may leave them
_THIN: Final = 0.45  # a piece of ink is a line if its width is at most this share of its length, and a dot otherwise
_SPAN: Final = 0.5  # a line runs across the picture if it is at least this share of the picture's width long,
_BEYOND: Final = 0.04  # and reaches beyond the text by this share of the width
_ENDS: Final = 6  # columns at each end of a line in which its width is measured
_OFTEN: Final = 0.6  # a style has a line across the picture if at least this share of the pictures has one
_SOME: Final = 0.5  # a style has short lines if a picture has at least this many on average

Piece = tuple[int, npt.NDArray[np.int64], npt.NDArray[np.int64]]  # the number of the picture, and the columns and rows of its pixels


def find_clutter(pixels: Floats, dark: npt.NDArray[np.bool_], text: npt.NDArray[np.bool_]) -> tuple[tuple[LineStyle, ...], DotStyle]:
    """Returns the kinds of lines in the pictures, and their dots.

    Args:
      pixels: float32 [N, height, width, 3], 0 to 255.
      dark: bool [N, height, width], true for ink.
      text: bool [N, height, width], true for characters.
    """
    _, height, width = dark.shape
    around = 2 * max(2, height // _AROUND) + 1
    near = ndimage.binary_dilation(text, np.ones((1, around, around), bool))
    lines = []
    spans = [_span(picture) for picture in dark]
    ends = [np.flatnonzero(of.any(axis=0))[[0, -1]] if of.any() else (width, 0) for of in text]
    across = [
        span
        for span, (first, last) in zip(spans, ends, strict=True)
        if span is not None and (span[0][0] < first - _BEYOND * width or span[0][-1] > last + _BEYOND * width)
    ]
    rest = dark & ~near
    if len(across) >= _OFTEN * len(spans):
        widths = [_widths(picture, span) for picture, span in zip(dark, spans, strict=True) if span is not None]
        lines.append(_line_across(across, widths))
        for span, left in zip(spans, rest, strict=True):
            if span is not None:
                for x, y in zip(*span, strict=True):
                    left[max(0, y - 3) : y + 4, x] = False
    thin, compact = list[Piece](), list[Piece]()
    for number, left in enumerate(rest):
        labelled, _ = ndimage.label(left, np.ones((3, 3), int))
        for place, box in enumerate(ndimage.find_objects(labelled), start=1):
            rows, columns = np.nonzero(labelled[box] == place)
            if len(rows) > _SPECK:
                piece = (number, box[1].start + columns, box[0].start + rows)
                (thin if _is_thin(rows, columns) else compact).append(piece)
    free = float(1 - near.mean())
    if len(thin) >= _SOME * len(pixels):
        lines.append(_short_lines(pixels, thin, free))
    return tuple(lines), _dot_style(pixels, compact, free)


def _line_across(spans: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]], widths: Sequence[tuple[float, float]]) -> LineStyle:
    starts, ends = np.array([(x[0], y[0]) for x, y in spans]), np.array([(x[-1], y[-1]) for x, y in spans])
    bends = [y[len(y) // 2] - (y[0] + y[-1]) / 2 for _, y in spans]
    return LineStyle(
        count=(1, 1),
        x=range_of(starts[:, 0]),
        y=range_of(starts[:, 1]),
        dx=range_of(ends[:, 0] - starts[:, 0]),
        dy=range_of(ends[:, 1] - starts[:, 1]),
        bend=range_of(bends),
        width=range_of([start for start, _ in widths]),
        end_width=range_of([end for _, end in widths]),
        palette=None,
    )


def _widths(dark: npt.NDArray[np.bool_], span: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]) -> tuple[float, float]:
    """Returns the width in pixels of a line at its start and at its end: the median height of its ink in _ENDS columns."""
    heights = []
    for x, y in zip(*span, strict=True):
        labelled, _ = ndimage.label(dark[:, x])
        heights.append(int((labelled == labelled[y]).sum()) if labelled[y] else 0)
    return float(np.median(heights[1 : _ENDS + 1])), float(np.median(heights[-_ENDS - 1 : -1]))


def _short_lines(pixels: Floats, pieces: Sequence[Piece], free: float) -> LineStyle:
    counts = np.bincount([number for number, _, _ in pieces], minlength=len(pixels)) / max(free, 0.2)
    starts, moves, colours = [], [], []
    for number, columns, rows in pieces:
        first, last = int(np.argmin(columns)), int(np.argmax(columns))
        if columns[first] == columns[last]:
            first, last = int(np.argmin(rows)), int(np.argmax(rows))
        starts.append((columns[first], rows[first]))
        moves.append((columns[last] - columns[first], rows[last] - rows[first]))
        colours.append(_colour(pixels[number], rows, columns))
    start, move = np.array(starts), np.array(moves)
    return LineStyle(
        count=counts_of(counts),
        x=range_of(start[:, 0], (2, 98)),
        y=range_of(start[:, 1], (2, 98)),
        dx=range_of(move[:, 0]),
        dy=range_of(move[:, 1]),
        width=(1.0, 1.0),
        palette=palette_of(np.array(colours), most=8),
    )


def _dot_style(pixels: Floats, pieces: Sequence[Piece], free: float) -> DotStyle:
    counts = np.bincount([number for number, _, _ in pieces], minlength=len(pixels)) / max(free, 0.2)
    if np.median(counts) < 1:
        return DotStyle()
    radii = [max(0.5, (len(rows) / np.pi) ** 0.5) for _, _, rows in pieces]
    colours = [_colour(pixels[number], rows, columns) for number, columns, rows in pieces]
    return DotStyle(count=counts_of(counts), radius=range_of(radii), palette=palette_of(np.array(colours), most=8))


def _colour(picture: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> npt.NDArray[np.floating]:
    """Returns the colour of a piece, from the pixels that differ most from the background: those at its edges are mixed with it."""
    found = picture[rows, columns]
    strength = np.abs(found - np.median(picture, axis=(0, 1))).max(axis=1)
    return np.median(found[strength >= np.percentile(strength, 70)], axis=0)


def _is_thin(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> bool:
    length = float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
    return len(rows) / length <= _THIN * length and length >= 5


def _span(dark: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Returns the columns and rows of the longest line of ink across a picture, bool [height, width]; None if there is none.

    Dynamic programming finds the path from left to right that covers most ink. From column to column, the path moves by at most one row.
    """
    height, width = dark.shape
    value = dark[:, 0].astype(float)
    moves = np.zeros((width, height), np.int64)
    for x in range(1, width):
        # A small penalty for each change of the row prefers straight paths.
        options = np.stack([np.append(value[1:], -1) - 0.01, value, np.insert(value[:-1], 0, -1) - 0.01])
        moves[x] = options.argmax(axis=0) - 1
        value = options.max(axis=0) + dark[:, x]
    path = np.zeros(width, np.int64)
    path[-1] = value.argmax()
    for x in range(width - 1, 0, -1):
        path[x - 1] = path[x] - moves[x, path[x]]
    on_ink = dark[path, np.arange(width)]
    labelled, count = ndimage.label(ndimage.binary_closing(np.pad(on_ink, 3), np.ones(4))[3:-3])
    if not count:
        return None
    longest = int(np.bincount(labelled)[1:].argmax()) + 1
    columns = np.flatnonzero(labelled == longest)
    return (columns, path[columns]) if len(columns) >= _SPAN * width else None
