"""Measures a style on real pictures: what can be seen directly, as a start for the search (`style_search`)."""

import functools
import io
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin
from scipy import ndimage

from components.data.sources.glyph_matching import Hand, Match, Placed
from components.data.sources.glyphs import glyph_of
from components.data.sources.style import DotStyle, GroundStyle, LineStyle, Palette, Style, TextStyle
from components.data.sources.two_sample import Floats, grounds, ink_of, is_ink

_COLOURS: Final = 24  # most colours of a palette
_SAME: Final = 14.0  # levels of 0 to 255: colours that differ by less are one colour, and gradients that are weaker are none
_FRAME: Final = 45.0  # levels by which a frame differs from the background
_MOST_FRAME: Final = 4  # pixels
_SURE: Final = 0.6  # the least correlation of a character that is measured
_TURNS: Final = tuple(range(-30, 31, 6))  # degrees
_RELATIVE_SIZES: Final = (0.8, 0.9, 1.0, 1.1, 1.2)
_MEASURED: Final = 6  # characters of each picture whose shape is measured
_SIZES_DIFFER: Final = 0.15  # a range of relative sizes that is narrower is none
_CORE: Final = 200  # of 255: a pixel of a character that is not at its edge
_AROUND: Final = 12  # ink that is nearer to a character than the height divided by this is taken as part of the character
_SPECK: Final = 2  # pixels of ink that a compression may leave
_THIN: Final = 0.45  # a piece is a line if its width is at most this share of its length, otherwise a dot
_SPAN: Final = 0.5  # of the width: a line that is longer runs across the picture
_OUTER: Final = (8, 92)  # percentiles that bound a range
_QUALITIES: Final = range(10, 96)


def frame_of(pixels: Floats) -> int:
    """Returns the width in pixels of a frame around the pictures, float32 [N, height, width, 3]; 0 for none."""
    inside = np.median(pixels[:, _MOST_FRAME + 1, _MOST_FRAME + 1 : -_MOST_FRAME - 1], axis=1)
    for ring in range(_MOST_FRAME + 1):
        sides = np.concatenate([pixels[:, ring, ring:-ring or None], pixels[:, -ring - 1, ring:-ring or None]], axis=1)
        differs = np.abs(np.median(sides, axis=1) - inside).max(axis=1)
        if (differs > _FRAME).mean() < 0.8:
            return ring
    return 0


def jpeg_quality(image: Image.Image) -> int | None:
    """Returns the quality with which Pillow would write a JPEG like this opened file; None for other formats."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.quantization:
        return None
    table = np.asarray(image.quantization[0], float)
    return min(_QUALITIES, key=lambda quality: float(np.abs(_table(quality) - table).sum()))


@functools.lru_cache(len(_QUALITIES))
def _table(quality: int) -> npt.NDArray[np.floating]:
    """Returns the luminance table of a quality, in the order in which Pillow reads it."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        assert isinstance(opened, JpegImagePlugin.JpegImageFile)
        return np.asarray(opened.quantization[0], float)


class Measures:
    """Measures pictures in which the characters have been found."""

    def __init__(self, pixels: Floats, frame: int, match: Match):
        """Args:
        pixels: float32 [N, height, width, 3].
        frame: width of the frame, pixels.
        match: a font and where its characters are; see `glyph_matching.find_hands`.
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
        """Returns the style as far as it can be seen: all but blur, waves, scatter and grain."""
        count, height, width, _ = self._pixels.shape
        lines, dots = self._clutter()
        return Style(
            width=width,
            height=height,
            grey=grey,
            smooth=self._is_smooth(),
            text=self._text(),
            ground=self._ground(),
            lines=tuple(lines),
            dots=dots,
            jpeg=None if quality is None else (quality, quality),
        )

    def _mask(self, one: Placed) -> npt.NDArray[np.uint8]:
        """Returns the character where it was found, uint8 [height, width]."""
        _, height, width = self.ink.shape
        glyph = glyph_of(one.character, self._hand.font, self._hand.size, 0.0, self._hand.stretch)
        layer = Image.new("L", (width, height))
        layer.paste(glyph.mask, (round(one.pen + glyph.left), round(one.baseline + glyph.top)))
        return np.asarray(layer)

    def _text(self) -> TextStyle:
        hand, pictures = self._hand, [found for found in self._placed if found]
        advance = {one: glyph_of(one, hand.font, hand.size, 0.0, hand.stretch).advance for found in pictures for one in {p.character for p in found}}
        firsts = np.array([found[0].pen for found in pictures])
        middles = np.array([(found[0].pen + found[-1].pen + advance[found[-1].character]) / 2 for found in pictures])
        centred = _spread(middles) < 0.7 * _spread(firsts)
        pairs = [(one, other) for found in pictures for one, other in zip(found, found[1:], strict=False) if min(one.fit, other.fit) >= _SURE]
        pairs = pairs or [(one, other) for found in pictures for one, other in zip(found, found[1:], strict=False)]
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
            start=_range(middles if centred else firsts),
            centred=bool(centred),
            pitch=(round(pitch, 1), round(pitch, 1)) if fixed else None,
            gap=_range(pitches - pitch if fixed else gaps),
            baseline=_range(lines),
            lift=_range(lifts),
            angle=angle,
            palette=palette,
            colour_each=each,
        )

    def _shapes(self) -> tuple[tuple[float, float], bool, tuple[float, float]]:
        """Returns the range of sizes, whether each character has its own size, and the range of angles, all where characters fit best."""
        turns, sizes, of_pictures = list[float](), list[float](), list[float]()
        for ink, placed in zip(self.ink, self._placed, strict=True):
            shapes = [_best_shape(ink, one, self._hand) for one in placed[:_MEASURED] if one.fit >= _SURE]
            if shapes:
                turns += [turn for turn, _ in shapes]
                sizes += [size for _, size in shapes]
                of_pictures.append(float(np.median([size for _, size in shapes])))
        low, high = _range(turns or [0.0])
        # One step in either direction is not an angle yet: a character that is not turned fits there nearly as well.
        angle = (0.0, 0.0) if max(-low, high) <= _TURNS[1] - _TURNS[0] else (low, high)
        found = np.array(sizes or [1.0])
        within = float(np.ptp(np.percentile(found, _OUTER)))
        between = float(np.ptp(np.percentile(of_pictures or [1.0], _OUTER)))
        if within < _SIZES_DIFFER:
            return (self._hand.size, self._hand.size), False, angle
        chosen = found if between < 0.6 * within else np.array(of_pictures)
        low, high = _range(self._hand.size * chosen)
        return (low, high), chosen is found, angle

    def _ink_colours(self) -> tuple[Palette, bool]:
        """Returns the colours of the text, and whether each character has its own."""
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
        each = within > _SAME
        observed = np.concatenate(own) if each else np.array([np.median(colours, axis=0) for colours in own])
        return palette_of(observed), bool(each)

    def _ground(self) -> GroundStyle:
        across, down = self._planes[:, 1].mean(axis=-1), self._planes[:, 2].mean(axis=-1)
        frame = Palette(colours=((0, 0, 0),))
        if self._frame:
            # JPEG gives a frame a tinge of what is beside it; the frame has one colour.
            frame = Palette(colours=(_rgb(np.median(self._pixels[:, 0], axis=(0, 1))),))
        if np.median(np.hypot(across, down)) < _SAME:
            return GroundStyle(palette=palette_of(self._planes[:, 0]), frame=self._frame, frame_palette=frame)
        angles = np.arctan2(down, across)
        # Degrees on both sides of the commonest direction, so that -179 and 179 are close.
        middle = float(np.angle(np.exp(1j * angles).mean()))
        off = np.angle(np.exp(1j * (angles - middle)))
        half = (np.cos(angles)[:, None] * self._planes[:, 1] + np.sin(angles)[:, None] * self._planes[:, 2]) / 2
        half *= (np.abs(np.cos(angles)) + np.abs(np.sin(angles)))[:, None]
        low, high = _range(np.degrees(off + middle))
        start, end = palette_of(self._planes[:, 0] - half), palette_of(self._planes[:, 0] + half)
        return GroundStyle(palette=start, end=end, angle=(low, high), frame=self._frame, frame_palette=frame)

    def _is_smooth(self) -> bool:
        """Whether there are pixels between ink and background at the edges of strokes: about one for each pixel of the outline."""
        strongest = np.percentile(self.ink, 99, axis=(1, 2), keepdims=True)
        share = self.ink / strongest.clip(1)
        outline = self._dark & ~ndimage.binary_erosion(self._dark, np.ones((1, 3, 3), bool))
        return bool(((share > 0.25) & (share < 0.7)).sum() > 0.35 * outline.sum())

    def _clutter(self) -> tuple[list[LineStyle], DotStyle]:
        """Returns kinds of lines and dots, from the ink that is not text."""
        _, height, width = self.ink.shape
        text = np.stack([np.max(cores, axis=0) if cores else np.zeros((height, width), np.uint8) for cores in self._cores]) > 0
        around = 2 * max(2, height // _AROUND) + 1
        near = ndimage.binary_dilation(text, np.ones((1, around, around), bool))
        lines = []
        spans = [_span(dark) for dark in self._dark]
        ends = [np.flatnonzero(of.any(axis=0))[[0, -1]] if of.any() else (width, 0) for of in text]
        across = [
            span
            for span, (first, last) in zip(spans, ends, strict=True)
            if span is not None and (span[0][0] < first - 0.04 * width or span[0][-1] > last + 0.04 * width)
        ]
        rest = self._dark & ~near
        if len(across) >= 0.6 * len(spans):
            lines.append(self._line_across(across))
            for span, left in zip(spans, rest, strict=True):
                if span is not None:
                    for x, y in zip(*span, strict=True):
                        left[max(0, y - 3) : y + 4, x] = False
        thin, compact = [], []
        for number, left in enumerate(rest):
            labelled, _ = ndimage.label(left, np.ones((3, 3), int))
            for place, box in enumerate(ndimage.find_objects(labelled), start=1):
                rows, columns = np.nonzero(labelled == place) if box is None else np.nonzero(labelled[box] == place)
                if len(rows) > _SPECK:
                    piece = (number, box[1].start + columns, box[0].start + rows)
                    (thin if _is_thin(rows, columns) else compact).append(piece)
        free = float(1 - near.mean())
        if len(thin) >= 0.5 * len(self._pixels):
            lines.append(self._short_lines(thin, free))
        return lines, self._dot_style(compact, free)

    def _line_across(self, spans: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]) -> LineStyle:
        starts, ends = np.array([(x[0], y[0]) for x, y in spans]), np.array([(x[-1], y[-1]) for x, y in spans])
        bends = [y[len(y) // 2] - (y[0] + y[-1]) / 2 for _, y in spans]
        return LineStyle(
            count=(1, 1),
            x=_range(starts[:, 0]),
            y=_range(starts[:, 1]),
            dx=_range(ends[:, 0] - starts[:, 0]),
            dy=_range(ends[:, 1] - starts[:, 1]),
            bend=_range(bends),
            width=(1.5, 2.0),
            end_width=(1.5, 2.0),
            palette=None,
        )

    def _short_lines(self, pieces: Sequence[tuple[int, Any, Any]], free: float) -> LineStyle:
        counts = np.bincount([number for number, _, _ in pieces], minlength=len(self._pixels)) / max(free, 0.2)
        starts, moves, colours = [], [], []
        for number, columns, rows in pieces:
            first, last = int(np.argmin(columns)), int(np.argmax(columns))
            if columns[first] == columns[last]:
                first, last = int(np.argmin(rows)), int(np.argmax(rows))
            starts.append((columns[first], rows[first]))
            moves.append((columns[last] - columns[first], rows[last] - rows[first]))
            colours.append(np.median(self._pixels[number, rows, columns], axis=0))
        start, move = np.array(starts), np.array(moves)
        return LineStyle(
            count=_counts(counts),
            x=_range(start[:, 0], (2, 98)),
            y=_range(start[:, 1], (2, 98)),
            dx=_range(move[:, 0]),
            dy=_range(move[:, 1]),
            width=(1.0, 1.0),
            palette=palette_of(np.array(colours), most=8),
        )

    def _dot_style(self, pieces: Sequence[tuple[int, Any, Any]], free: float) -> DotStyle:
        counts = np.bincount([number for number, _, _ in pieces], minlength=len(self._pixels)) / max(free, 0.2)
        if np.median(counts) < 1:
            return DotStyle()
        radii = [max(0.5, (len(rows) / np.pi) ** 0.5) for _, _, rows in pieces]
        colours = [np.median(self._pixels[number, rows, columns], axis=0) for number, columns, rows in pieces]
        return DotStyle(count=_counts(counts), radius=_range(radii), palette=palette_of(np.array(colours), most=8))


def without_frame(ink: Floats, frame: int) -> Floats:
    """Returns the ink without that of a frame, whose width is in pixels."""
    if frame:
        ink = ink.copy()
        ink[:, :frame], ink[:, -frame:], ink[:, :, :frame], ink[:, :, -frame:] = 0, 0, 0, 0
    return ink


def palette_of(colours: npt.NDArray[np.floating], most: int = _COLOURS) -> Palette:
    """Returns the palette of observed colours, [N, 3]: one colour if they hardly differ, otherwise some of them, from dark to bright."""
    spread = np.ptp(np.percentile(colours, _OUTER, axis=0), axis=0).max()
    if spread < _SAME:
        return Palette(colours=(_rgb(np.median(colours, axis=0)),), spread=round(spread / 2))
    ordered = colours[np.argsort(colours.sum(axis=1), kind="stable")]
    chosen = ordered[np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int)]
    return Palette(colours=tuple(dict.fromkeys(map(_rgb, chosen))), spread=8)


def _rgb(colour: npt.NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour.round().clip(0, 255))
    return red, green, blue


def _range(values: Any, percentiles: tuple[int, int] = _OUTER) -> tuple[float, float]:
    low, high = (round(float(value), 1) for value in np.percentile(values, percentiles))
    return low, high


def _counts(counts: npt.NDArray[np.floating]) -> tuple[int, int]:
    low, high = _range(counts)
    return round(low), round(high)


def _spread(values: npt.NDArray[np.floating]) -> float:
    """Returns half of the distance that holds the middle 68 % of the values; as much as one pixel cannot be measured."""
    return max(0.5, float(np.ptp(np.percentile(values, (16, 84)))) / 2)


def _best_shape(ink: Floats, one: Placed, hand: Hand) -> tuple[float, float]:
    """Returns the angle, in degrees, and the relative size in which a character fits a picture best, [height, width]."""
    turn = max(_TURNS, key=lambda turn: (_fit_of(ink, one, hand, turn, 1.0), -abs(turn)))
    size = max(_RELATIVE_SIZES, key=lambda size: (_fit_of(ink, one, hand, turn, size), -abs(size - 1)))
    return turn, size


def _fit_of(ink: Floats, one: Placed, hand: Hand, turn: int, size: float) -> float:
    """Returns the correlation of a character with a picture, [height, width], at most two pixels from where it was found."""
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


def _is_thin(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> bool:
    length = float(np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1))
    return len(rows) / length <= _THIN * length and length >= 5


def _span(dark: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Returns the columns and rows of the longest line of ink that runs across a picture, bool [height, width]; None if there is none.

    The path from left to right that meets most ink, and changes its row by at most one from column to column, is found by dynamic programming.
    """
    height, width = dark.shape
    value = dark[:, 0].astype(float)
    moves = np.zeros((width, height), np.int64)
    for x in range(1, width):
        # A straight path is slightly better than a bent one.
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

