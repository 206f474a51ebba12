"""Makes a font from the characters that were found in pictures.

The median of all places where a character was found shows it without the lines and dots around it. The outlines of these medians become a
TrueType font, which is used like any other font. The *first font* is the font with which the characters were found.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from components.data.drawing.glyphs import glyph_of
from components.data.style_fit.glyph_matching import Hand, Match, Placed
from components.data.style_fit.picture_features import Floats

_PAD: Final = 3  # pixels around a character of the first font, because the traced character may be larger
_REACH: Final = 2  # pixels by which a traced outline may differ from that of the first font
_LEAST_FOUND: Final = 3  # a character found fewer times is not traced: the median would show lines
_LEAST_FIT: Final = 0.45  # places with a lower correlation are not used
_MOST_FOUND: Final = 60  # places of a character that are used
_UNIT: Final = 64  # units of the font for each pixel
_FINE: Final = 4  # steps of an outline for each pixel, if edges are smooth
_SHIFTS: Final = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))  # pixels, to align the places of a character


@dataclass(frozen=True)
class _Shape:
    """A traced character: its ink, float32 [height, width], 0 to 1. The other attributes are those of `Glyph`."""

    ink: Floats
    left: int
    top: int
    advance: float


def trace(ink: Floats, match: Match, characters: str, smooth: bool) -> bytes:
    """Returns a TrueType font. At the size of `match.hand`, it draws the characters as large as they are in the pictures.

    Args:
      ink: float32 [N, height, width], from `picture_features.ink_of`.
      match: the first font, and where its characters are. A character that was found fewer than three times looks as in this font.
      characters: the characters of the new font.
      smooth: whether edges are smooth; otherwise outlines follow the pixels.
    """
    shapes = {
        character: _shape(ink, [one for one in match.placed if one.character == character], character, match.hand)
        for character in characters
    }
    return _font(shapes, match.hand.size, _FINE if smooth else 1)


def _shape(ink: Floats, placed: Sequence[Placed], character: str, hand: Hand) -> _Shape:
    glyph = glyph_of(character, hand.font, hand.size, 0.0, hand.stretch)
    drawn = np.pad(np.asarray(glyph.mask, np.float32) / 255, _PAD)
    left, top = round(glyph.left) - _PAD, round(glyph.top) - _PAD
    found = sorted((one for one in placed if one.fit >= _LEAST_FIT), key=lambda one: -one.fit)[:_MOST_FOUND]
    if len(found) < _LEAST_FOUND:
        return _Shape(drawn, left, top, glyph.advance)
    # Ink farther away than this from the character of the first font belongs to its neighbours.
    near = ndimage.binary_dilation(drawn > 0.3, iterations=_REACH)
    patches = [_patch(ink[one.picture], round(one.pen) + left, round(one.baseline) + top, drawn) * near for one in found]
    for _ in range(2):
        patches = [_aligned(patch, drawn) for patch in patches]
        # The character so far, at first that of the first font, counts like one more place.
        drawn = np.median([*patches, drawn], axis=0).astype(np.float32)
    return _Shape(drawn, left, top, glyph.advance)


def _patch(ink: Floats, x: int, y: int, drawn: Floats) -> Floats:
    """Returns the part of a picture at the place of a character, like `drawn`: float32 [height, width], scaled so that full ink is 1."""
    reach = max(drawn.shape) + _PAD
    part = np.pad(ink, reach)[y + reach : y + reach + drawn.shape[0], x + reach : x + reach + drawn.shape[1]]
    whole = np.zeros_like(drawn)
    whole[: part.shape[0], : part.shape[1]] = part
    inside = whole[drawn > 0.6]
    return (whole / max(1.0, float(np.percentile(inside, 75)) if inside.size else 1.0)).clip(0, 1)


def _aligned(patch: Floats, drawn: Floats) -> Floats:
    """Returns a part of a picture, moved by at most one pixel in each direction so that it resembles the character most."""
    moved = [ndimage.shift(patch, shift, order=0, mode="constant") for shift in _SHIFTS]
    return max(moved, key=lambda one: float((one * drawn).sum() / max(float(np.linalg.norm(one)), 1e-6)))


def _font(shapes: dict[str, _Shape], size: float, fine: int) -> bytes:
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables.ttProgram import Program

    names = {character: f"glyph{number:05d}" for number, character in enumerate(shapes)}
    outlines, metrics = {".notdef": TTGlyphPen(None).glyph()}, {".notdef": (round(size * _UNIT), 0)}
    for character, shape in shapes.items():
        pen = TTGlyphPen(None)
        for left, top, right, bottom in _boxes(shape.ink, fine):
            xs = [round(shape.left * _UNIT + side * _UNIT / fine) for side in (left, right)]
            ys = [round(-shape.top * _UNIT - side * _UNIT / fine) for side in (top, bottom)]
            pen.moveTo((xs[0], ys[1]))
            for corner in ((xs[0], ys[0]), (xs[1], ys[0]), (xs[1], ys[1])):
                pen.lineTo(corner)
            pen.closePath()
        outlines[names[character]] = pen.glyph()
        metrics[names[character]] = (round(shape.advance * _UNIT), 0)
    builder = FontBuilder(round(size * _UNIT), isTTF=True)
    builder.setupGlyphOrder(list(outlines))
    builder.setupCharacterMap({ord(character): name for character, name in names.items()})
    builder.setupGlyf(outlines)
    glyf = builder.font["glyf"]
    builder.setupHorizontalMetrics({name: (advance, getattr(glyf[name], "xMin", 0)) for name, (advance, _) in metrics.items()})
    builder.setupHorizontalHeader(ascent=round(size * _UNIT), descent=-round(size * _UNIT / 4))
    builder.setupNameTable({"familyName": "Traced by captcha-pipeline", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    # FreeType moves the outlines of fonts without a program to whole pixels. A program that does nothing prevents this.
    builder.font["fpgm"] = program = newTable("fpgm")
    program.program = Program()
    program.program.fromAssembly(["PUSHB[ ]", "0", "POP[ ]"])
    builder.font.recalcTimestamp = False
    builder.updateHead(created=0, modified=0)
    buffer = io.BytesIO()
    builder.font.save(buffer)
    return buffer.getvalue()


def _boxes(ink: Floats, fine: int) -> list[tuple[int, int, int, int]]:
    """Returns boxes that cover all ink above 0.5, each as left, top, right and bottom. There are `fine` steps to a pixel."""
    sides = ink.shape[1] * fine, ink.shape[0] * fine
    large = np.asarray(Image.fromarray(ink).resize(sides, Image.Resampling.BICUBIC if fine > 1 else Image.Resampling.NEAREST)) > 0.5
    open_boxes: dict[tuple[int, int], int] = {}
    boxes = []
    for row in range(len(large) + 1):
        runs = _runs(large[row]) if row < len(large) else []
        for run in [run for run in open_boxes if run not in runs]:
            boxes.append((run[0], open_boxes.pop(run), run[1], row))
        for run in runs:
            open_boxes.setdefault(run, row)
    return sorted(boxes)


def _runs(row: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Returns the start and the end of each run of ink in a row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
