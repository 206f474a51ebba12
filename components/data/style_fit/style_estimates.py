"""Measures what can be seen directly of the style of real pictures. The search (`style_search`) starts from it."""

import functools
import io
import itertools
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin
from scipy import ndimage

from components.data.drawing.glyphs import glyph_of
from components.data.drawing.style import GroundStyle, Palette, Style, TextStyle
from components.data.style_fit.clutter import find_clutter
from components.data.style_fit.glyph_matching import Hand, Match, Placed
from components.data.style_fit.observed import OUTER, SAME, palette_of, range_of, rgb
from components.data.style_fit.picture_features import Floats, grounds, ink_of, is_ink

_FRAME: Final = 45.0  # a frame differs from the background by at least this, in levels of 0 to 255
_MOST_FRAME: Final = 4  # the widest frame, in pixels
_SURE: Final = 0.6  # a character is measured only if its correlation with the picture is at least this
_TURNS: Final = tuple(range(-30, 31, 6))  # angles to try, in degrees
_RELATIVE_SIZES: Final = (0.8, 0.9, 1.0, 1.1, 1.2)  # sizes to try, relative to the size that was found
_MEASURED: Final = 6  # characters of each picture whose angle and size are measured
# Each character has its own size if the sizes within a picture differ by more than this share of the range of all sizes.
_OWN: Final = 0.4
# Edges of strokes are smooth if more than this share of the outline has a colour between those of text and background.
_MIXED: Final = 0.1
_MIXED_BY_JPEG: Final = 0.35  # the same for JPEGs, which mix these colours even where the edges of strokes are hard
_LEAST_GRAIN: Final = 1.5  # levels of 0 to 255; less grain than this counts as none
_SIZES_DIFFER: Final = 0.15  # if relative sizes differ by less than this, all characters have the same size
_CORE: Final = 200  # of 255: pixels of a character with at least this value are not at its edge
_QUALITIES: Final = range(10, 96)  # of JPEGs


def frame_of(pixels: Floats) -> int:
    """Returns the width in pixels of a frame at the edges of pictures; 0 if there is none.

    Args:
      pixels: float32 [N, height, width, 3], 0 to 255.
    """
    inside = np.median(pixels[:, _MOST_FRAME + 1, _MOST_FRAME + 1 : -_MOST_FRAME - 1], axis=1)
    for ring in range(_MOST_FRAME + 1):
        sides = np.concatenate([pixels[:, ring, ring : -ring or None], pixels[:, -ring - 1, ring : -ring or None]], axis=1)
        differs = np.abs(np.median(sides, axis=1) - inside).max(axis=1)
        if (differs > _FRAME).mean() < 0.8:
            return ring
    return 0


def jpeg_quality(image: Image.Image) -> int | None:
    """Returns the JPEG quality, 10 to 95, at which Pillow's quantization table is nearest to that of this picture.

    Args:
      image: as Pillow has opened it from a file.

    Returns:
      None if the file is not a JPEG.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
        return None
    table = np.asarray(image.quantization[0], float)
    return min(_QUALITIES, key=lambda quality: float(np.abs(_table(quality) - table).sum()))


@functools.lru_cache(len(_QUALITIES))
def _table(quality: int) -> npt.NDArray[np.floating]:
    """Returns the quantization table for luminance that Pillow writes at a quality, in the order in which Pillow reads it."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        assert isinstance(opened, JpegImagePlugin.JpegImageFile)
        return np.asarray(opened.quantization[0], float)


class Measures:
    """Measures the style of pictures whose characters have been found.

    Attributes:
      ink: float32 [N, height, width], see `picture_features.ink_of`; 0 on a frame.
      font: path of the font.
    """

    def __init__(self, pixels: Floats, frame: int, match: Match):
        """Args:
        pixels: float32 [N, height, width, 3], 0 to 255.
        frame: width of the frame in pixels, from `frame_of`.
        match: a font and where its characters are, from `glyph_matching.find_hands`.
        """
        self._pixels, self._frame = pixels, frame
        self._planes = grounds(pixels, frame)
        self.ink = without_frame(ink_of(pixels, self._planes), frame)
        self._dark = is_ink(self.ink)
        self._hand = match.hand
        self.font = match.hand.font
        self._placed = [[one for one in match.placed if one.picture == number] for number in range(len(pixels))]
        for found in self._placed:
            found.sort(key=lambda one: one.pen)
        self._cores = [[self._mask(one) for one in found] for found in self._placed]

    def style(self, grey: bool, quality: int | None) -> Style:
        """Returns the style as far as it can be seen, which is without blur, waves and scatter.

        Args:
          grey: whether all pictures are grey.
          quality: of the JPEGs; None if the pictures are not JPEGs.
        """
        _, height, width, _ = self._pixels.shape
        text = np.stack([np.max(cores, axis=0) if cores else np.zeros((height, width), np.uint8) for cores in self._cores]) > 0
        lines, dots = find_clutter(self._pixels, self._dark, text)
        return Style(
            width=width,
            height=height,
            grey=grey,
            smooth=self._is_smooth(_MIXED if quality is None else _MIXED_BY_JPEG),
            text=self._text(),
            ground=self._ground(),
            lines=lines,
            dots=dots,
            jpeg=None if quality is None else (quality, quality),
        )

    def _mask(self, one: Placed) -> npt.NDArray[np.uint8]:
        """Returns a mask with the character at the place where it was found, uint8 [height, width], 255 for ink."""
        _, height, width = self.ink.shape
        glyph = glyph_of(one.character, self._hand.font, self._hand.size, 0.0, self._hand.stretch)
        layer = Image.new("L", (width, height))
        layer.paste(glyph.mask, (round(one.pen + glyph.left), round(one.baseline + glyph.top)))
        return np.asarray(layer)

    def _text(self) -> TextStyle:
        hand, pictures = self._hand, [found for found in self._placed if found]
        advance = {
            one: glyph_of(one, hand.font, hand.size, 0.0, hand.stretch).advance
            for found in pictures
            for one in {p.character for p in found}
        }
        firsts = np.array([found[0].pen for found in pictures])
        middles = np.array([(found[0].pen + found[-1].pen + advance[found[-1].character]) / 2 for found in pictures])
        centred = _spread(middles) < 0.7 * _spread(firsts)
        pairs = [(one, other) for found in pictures for one, other in itertools.pairwise(found) if min(one.fit, other.fit) >= _SURE]
        pairs = pairs or [(one, other) for found in pictures for one, other in itertools.pairwise(found)]
        gaps = np.array([other.pen - one.pen - advance[one.character] for one, other in pairs] or [0.0])
        pitches = gaps + np.array([(advance[one.character] + advance[other.character]) / 2 for one, other in pairs] or [0.0])
        fixed = len(pairs) > 0 and _spread(pitches) < 0.8 * _spread(gaps)
        lines = [float(np.median([one.baseline for one in found])) for found in pictures]
        lifts = [one.baseline - line for found, line in zip(pictures, lines, strict=True) for one in found if one.fit >= _SURE] or [0.0]
        palette, each = self._ink_colours()
        size, size_each, angle = self._shapes()
        pitch = float(np.median(pitches))
        return TextStyle(
            size=size,
            size_each=size_each,
            stretch=(hand.stretch, hand.stretch),
            start=range_of(middles if centred else firsts),
            centred=bool(centred),
            pitch=(round(pitch, 1), round(pitch, 1)) if fixed else None,
            gap=range_of(pitches - pitch if fixed else gaps),
            baseline=range_of(lines),
            lift=range_of(lifts),
            angle=angle,
            palette=palette,
            colour_each=each,
        )

    def _shapes(self) -> tuple[tuple[float, float], bool, tuple[float, float]]:
        """Returns the range of sizes in pixels, whether each character has its own size, and the range of angles in degrees.

        They are those at which the characters fit the pictures best.
        """
        shapes = [
            [_best_shape(ink, one, self._hand) for one in placed[:_MEASURED] if one.fit >= _SURE]
            for ink, placed in zip(self.ink, self._placed, strict=True)
        ]
        low, high = range_of([turn for found in shapes for turn, _ in found] or [0.0])
        # A range of one step in either direction counts as 0: characters that are not turned fit there nearly as well.
        angle = (0.0, 0.0) if max(-low, high) <= _TURNS[1] - _TURNS[0] else (low, high)
        sizes = [[size for _, size in found] for found in shapes if found] or [[1.0]]
        overall = float(np.ptp(np.percentile(np.concatenate(sizes), OUTER)))
        if overall < _SIZES_DIFFER:
            return (self._hand.size, self._hand.size), False, angle
        each = float(np.mean([np.ptp(of) for of in sizes])) > _OWN * overall
        low, high = range_of(self._hand.size * (np.concatenate(sizes) if each else np.array([np.median(of) for of in sizes])))
        return (low, high), each, angle

    def _ink_colours(self) -> tuple[Palette, bool]:
        """Returns the colours of the text, and whether each character has its own colour."""
        own = []
        for pixels, ink, cores in zip(self._pixels, self.ink, self._cores, strict=True):
            colours = []
            for core in cores:
                inside = core >= min(_CORE, int(core.max()))
                if inside.any():
                    strong = inside & (ink >= np.percentile(ink[inside], 60))
                    colours.append(np.median(pixels[strong], axis=0))
            if colours:
                own.append(np.array(colours))
        within = float(np.median([colours.std(axis=0).max() for colours in own]))
        each = within > SAME
        observed = np.concatenate(own) if each else np.array([np.median(colours, axis=0) for colours in own])
        return palette_of(observed), bool(each)

    def _ground(self) -> GroundStyle:
        across, down = self._planes[:, 1].mean(axis=-1), self._planes[:, 2].mean(axis=-1)
        frame = Palette(colours=((0, 0, 0),))
        if self._frame:
            # JPEG tinges a frame with the colours beside it, so the median over all pictures is its colour.
            frame = Palette(colours=(rgb(np.median(self._pixels[:, 0], axis=(0, 1))),))
        grain = self._grain()
        if np.median(np.hypot(across, down)) < SAME:
            return GroundStyle(palette=palette_of(self._planes[:, 0]), grain=(grain, grain), frame=self._frame, frame_palette=frame)
        angles = np.arctan2(down, across)
        # Angles are measured from the mean direction, so that -179 and 179 degrees are close to each other.
        middle = float(np.angle(np.exp(1j * angles).mean()))
        off = np.angle(np.exp(1j * (angles - middle)))
        half = (np.cos(angles)[:, None] * self._planes[:, 1] + np.sin(angles)[:, None] * self._planes[:, 2]) / 2
        half *= (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))[:, None]
        low, high = range_of(np.degrees(off + middle))
        start, end = palette_of(self._planes[:, 0] - half), palette_of(self._planes[:, 0] + half)
        return GroundStyle(palette=start, end=end, angle=(low, high), grain=(grain, grain), frame=self._frame, frame_palette=frame)

    def _grain(self) -> float:
        """Returns the root mean square of the background's distance from its plane, in levels of 0 to 255; 0 if it is smooth."""
        away = ~ndimage.binary_dilation(self._dark, np.ones((1, 5, 5), bool))
        found = [float(np.sqrt((ink[light] ** 2).mean())) for ink, light in zip(self.ink, away, strict=True) if light.any()]
        grain = round(float(np.median(found or [0.0])), 1)
        return grain if grain >= _LEAST_GRAIN else 0.0

    def _is_smooth(self, least: float) -> bool:
        """Returns whether more pixels than this share of the outline have a colour between those of ink and background."""
        strongest = np.percentile(self.ink, 99, axis=(1, 2), keepdims=True)
        share = self.ink / strongest.clip(1)
        outline = self._dark & ~ndimage.binary_erosion(self._dark, np.ones((1, 3, 3), bool))
        return bool(((share > 0.25) & (share < 0.7)).sum() > least * outline.sum())


def without_frame(ink: Floats, frame: int) -> Floats:
    """Returns the ink, float32 [N, height, width], with 0 on a frame of this width in pixels. The argument is not changed."""
    if frame:
        ink = ink.copy()
        ink[:, :frame], ink[:, -frame:], ink[:, :, :frame], ink[:, :, -frame:] = 0, 0, 0, 0
    return ink


def _spread(values: npt.NDArray[np.floating]) -> float:
    """Returns half of the width of the interval with the middle 68 % of the values, but at least 0.5: less cannot be measured in pixels."""
    return max(0.5, float(np.ptp(np.percentile(values, (16, 84)))) / 2)


def _best_shape(ink: Floats, one: Placed, hand: Hand) -> tuple[float, float]:
    """Returns the angle, in degrees, and the relative size at which a character fits the ink of a picture best, [height, width]."""
    turn = max(_TURNS, key=lambda turn: (_fit_of(ink, one, hand, turn, 1.0), -abs(turn)))
    size = max(_RELATIVE_SIZES, key=lambda size: (_fit_of(ink, one, hand, turn, size), -abs(size - 1)))
    return turn, size


def _fit_of(ink: Floats, one: Placed, hand: Hand, turn: int, size: float) -> float:
    """Returns the best correlation of a character with the ink of a picture, [height, width], up to two pixels from its place."""
    glyph = glyph_of(one.character, hand.font, hand.size, 0.0, hand.stretch)
    sides = max(1, round(glyph.mask.width * size)), max(1, round(glyph.mask.height * size))
    turned = glyph.mask.resize(sides, Image.Resampling.BICUBIC).rotate(turn, Image.Resampling.BICUBIC, expand=True)
    mask = ndimage.gaussian_filter(np.pad(np.asarray(turned, np.float32), 2), 0.7)
    mask -= mask.mean()
    mask /= max(float(np.linalg.norm(mask)), 1e-6)
    x = round(one.pen + glyph.left + (glyph.mask.width - mask.shape[1]) / 2)
    y = round(one.baseline + glyph.top + (glyph.mask.height - mask.shape[0]) / 2)
    reach = max(mask.shape) + 2
    window = np.pad(ink, reach)[y + reach - 2 : y + reach + 2 + mask.shape[0] + 1, x + reach - 2 : x + reach + 2 + mask.shape[1] + 1]
    if window.shape[0] < mask.shape[0] or window.shape[1] < mask.shape[1]:
        return 0.0
    patches = np.lib.stride_tricks.sliding_window_view(window, mask.shape)
    centred = patches - patches.mean(axis=(2, 3), keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=(2, 3))).clip(1e-6)
    return float(((centred * mask).sum(axis=(2, 3)) / norms).max())
