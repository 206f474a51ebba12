"""Draws pictures in a style (`components.data.drawing.style`)."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from scipy import ndimage

from components.data.drawing.glyphs import Glyph, glyph_of, through_jpeg
from components.data.drawing.style import Colour, LineStyle, Palette, Style

_FINE: Final = 3  # lines and dots with smooth edges are drawn this many times larger, and then reduced
_SEGMENTS: Final = 6  # straight pieces of which a line is made
_LEAST_SIZE: Final = 4.0  # the smallest font size, in pixels

Pixels = npt.NDArray[np.float32]


class StyleHand:
    """Draws labels in a style."""

    def __init__(self, style: Style, fonts: Sequence[str]):
        """Args:
        style: of the pictures.
        fonts: paths of TrueType or OpenType fonts that have every character of the labels; each picture takes one.
        """
        self._style = style
        self._fonts = fonts

    def draw(self, label: str, rng: random.Random) -> tuple[Image.Image, dict[str, Any]]:
        """Returns a picture, of mode L if the style is grey and RGB otherwise, and the random choices made for it, as JSON values."""
        return _Drawing(self._style, rng).draw(label, rng.choice(self._fonts))


class _Drawing:
    """Draws one picture. Use a new instance for each."""

    def __init__(self, style: Style, rng: random.Random):
        self._style = style
        self._rng = rng
        self._noise = np.random.default_rng(rng.getrandbits(64))
        self._ink: list[Colour] = []

    def draw(self, label: str, font: str) -> tuple[Image.Image, dict[str, Any]]:
        style = self._style
        pixels = self._ground()
        cover, paint, about = self._text(label, font)
        # Chosen before lines and dots, so that a style without these draws the same text with the same blur.
        blur = self._pick(style.blur, 0.6)
        quality = round(min(95.0, self._pick(style.jpeg, 15, least=1))) if style.jpeg else None
        lines = [(kind, self._lines(kind)) for kind in style.lines]
        for kind, drawn in lines:
            if not kind.over:
                self._lay_all(pixels, drawn)
        _lay(pixels, cover, paint)
        for kind, drawn in lines:
            if kind.over:
                self._lay_all(pixels, drawn)
        dots = self._dots()
        self._lay_all(pixels, dots)
        image = Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))
        image = image.filter(ImageFilter.GaussianBlur(blur)) if blur > 0.05 else image
        image = image.convert("L") if style.grey else image
        about |= {"lines": sum(len(drawn) for _, drawn in lines), "dots": len(dots), "blur": round(blur, 2), "jpeg": quality}
        return image if quality is None else through_jpeg(image, quality), about

    def _pick(self, bounds: tuple[float, float], slack: float, least: float = 0.0) -> float:
        """Returns a random value of a range, which is first widened on both sides by `variation` times `slack`; at least `least`."""
        more = self._style.variation * slack
        return max(least, self._rng.uniform(bounds[0] - more, bounds[1] + more))

    def _place(self, bounds: tuple[float, float], slack: float) -> float:
        return self._pick(bounds, slack, least=-math.inf)

    def _number(self, bounds: tuple[int, int]) -> int:
        more = self._style.variation * (1 + bounds[1]) / 2 if bounds[1] else 0.0
        return max(0, round(self._rng.uniform(bounds[0] - more - 0.499, bounds[1] + more + 0.499)))

    def _colour(self, palette: Palette | None) -> Colour:
        if palette is None:
            return self._rng.choice(self._ink)
        spread = palette.spread + self._style.variation * 40
        red, green, blue = (
            min(255, max(0, round(value + self._rng.uniform(-spread, spread)))) for value in self._rng.choice(palette.colours)
        )
        return red, green, blue

    def _ground(self) -> Pixels:
        """Returns the background, float32 [height, width, 3], about 0 to 255."""
        style, ground = self._style, self._style.ground
        start = np.asarray(self._colour(ground.palette), np.float32)
        pixels = np.empty((style.height, style.width, 3), np.float32)
        pixels[:] = start
        if ground.end:
            angle = math.radians(self._place(ground.angle, 45))
            columns, rows = np.meshgrid(np.linspace(-0.5, 0.5, style.width), np.linspace(-0.5, 0.5, style.height))
            way = columns * math.cos(angle) + rows * math.sin(angle)
            way = (way - way.min()) / max(float(np.ptp(way)), 1e-6)
            pixels += way[..., np.newaxis].astype(np.float32) * (np.asarray(self._colour(ground.end), np.float32) - start)
        grain = self._pick(ground.grain, 10)
        if grain > 0.5:
            noise = self._noise.standard_normal((style.height, style.width, 3 if ground.grain_each else 1), np.float32)
            if ground.grain_scale:
                noise = ndimage.gaussian_filter(noise, (ground.grain_scale, ground.grain_scale, 0), mode="wrap")
                noise /= max(float(noise.std()), 1e-6)
            pixels += grain * noise
        if frame := ground.frame:
            colour = np.asarray(self._colour(ground.frame_palette), np.float32)
            pixels[:frame], pixels[-frame:], pixels[:, :frame], pixels[:, -frame:] = colour, colour, colour, colour
        return pixels

    def _text(self, label: str, font: str) -> tuple[Pixels, Pixels, dict[str, Any]]:
        """Draws the text. Returns three things.

        The cover says how much of each pixel the text covers, float32 [height, width, 1], 0 to 1. The paint is the colour of the text at
        each pixel, float32 [height, width, 3]. The last is the random choices made, as JSON values.
        """
        style, text = self._style, self._style.text
        sizes = [round(2 * self._pick(text.size, 0.15 * text.size[1], least=_LEAST_SIZE)) / 2 for _ in label]
        sizes = sizes if text.size_each else sizes[:1] * len(label)
        stroke = round(4 * self._pick(text.stroke, 0.6)) / 4
        stretch = round(20 * self._pick(text.stretch, 0.15, least=0.2)) / 20
        glyphs = [glyph_of(character, font, size, stroke, stretch) for character, size in zip(label, sizes, strict=True)]
        angles = [self._place(text.angle, 12) for _ in label]
        baseline = self._place(text.baseline, 0.08 * style.height)
        own = [self._colour(text.palette) for _ in label]
        self._ink = own if text.colour_each else own[:1] * len(own)
        cover, paint = Image.new("L", (style.width, style.height)), Image.new("RGB", (style.width, style.height), self._ink[0])
        for glyph, pen, angle, colour in zip(glyphs, self._pens(glyphs), angles, self._ink, strict=True):
            y = baseline + self._place(text.lift, 0.06 * style.height) + glyph.top + glyph.mask.height / 2
            x = pen + glyph.left + glyph.mask.width / 2
            mask = glyph.mask.rotate(angle, Image.Resampling.BICUBIC, expand=True) if abs(angle) > 0.5 else glyph.mask
            corner = round(x - mask.width / 2), round(y - mask.height / 2)
            layer = Image.new("L", cover.size)
            layer.paste(mask, corner)
            cover = ImageChops.lighter(cover, layer)
            paint.paste(colour, mask=layer.point(lambda value: 255 * (value > 0)))
        about = {"font_size": max(sizes), "fonts": [Path(font).name], "stroke": stroke, "angle": round(max(map(abs, angles)), 1)}
        return *self._bent(np.asarray(cover, np.float32) / 255, np.asarray(paint, np.float32)), about

    def _pens(self, glyphs: Sequence[Glyph]) -> list[float]:
        """Returns the horizontal pen position of each character."""
        text, size = self._style.text, self._style.text.size[1]
        pens, pen = [], 0.0
        pitch = None if text.pitch is None else self._pick(text.pitch, 0.1 * size)
        for glyph in glyphs:
            gap = self._place(text.gap, 0.08 * size)
            if pitch is None:
                pens.append(pen)
                pen += glyph.advance + gap
            else:
                pens.append(pen + (pitch - glyph.advance) / 2 + gap)
                pen += pitch
        start = self._place(text.start, 0.25 * size)
        # The gap after the last character does not belong to the text.
        shift = start - (pens[-1] + glyphs[-1].advance) / 2 if text.centred else start
        return [pen + shift for pen in pens]

    def _bent(self, cover: Pixels, paint: Pixels) -> tuple[Pixels, Pixels]:
        """Returns cover and paint (see `_text`) after waves and scatter have moved the pixels."""
        style, text = self._style, self._style.text
        wave, scatter = self._pick(text.wave, 0.02 * style.height), self._pick(text.scatter, 0.5)
        if wave >= 0.25 or scatter >= 0.1:
            rows, columns = np.meshgrid(np.arange(style.height, dtype=np.float32), np.arange(style.width, dtype=np.float32), indexing="ij")
            length, phases = self._pick(text.wave_length, 10, least=4.0), [self._rng.uniform(0, 2 * math.pi) for _ in range(2)]
            across, down = (wave * np.sin(2 * math.pi * way / length + phase) for way, phase in zip((rows, columns), phases, strict=True))
            moves = self._noise.standard_normal((2, style.height, style.width), np.float32) * scatter
            if text.scatter_at is not None:
                middle, reach = self._place(text.scatter_at, 0.1 * style.width), self._pick(text.scatter_reach, 10, least=1.0)
                moves *= np.exp(-(((columns - middle) / reach) ** 2) / 2)
            places = np.stack([rows + down + moves[0].round(), columns + across + moves[1].round()])
            cover = ndimage.map_coordinates(cover, places, order=1)
            nearest = places.round().astype(int)
            paint = paint[nearest[0].clip(0, style.height - 1), nearest[1].clip(0, style.width - 1)]
        return (cover if style.smooth else (cover >= 0.5).astype(np.float32))[..., np.newaxis], paint

    def _lines(self, kind: LineStyle) -> list[tuple[Pixels, Colour]]:
        """Returns the cover of each line, float32 [height, width, 1], 0 to 1, and its colour."""
        style = self._style
        drawn = []
        for _ in range(self._number(kind.count)):
            x, y = self._place(kind.x, 0.05 * style.width), self._place(kind.y, 0.05 * style.height)
            dx, dy = self._place(kind.dx, 0.05 * style.width), self._place(kind.dy, 0.1 * style.height)
            bend, width = self._place(kind.bend, 0.1 * style.height), self._pick(kind.width, 0.6)
            end = width if kind.end_width is None else self._pick(kind.end_width, 0.6)
            # A parabola: its middle is moved by `bend`.
            points = [(x + t * dx, y + t * dy + 4 * t * (1 - t) * bend) for t in np.linspace(0, 1, _SEGMENTS + 1).tolist()]
            widths = [width + t * (end - width) for t in np.linspace(0, 1, _SEGMENTS).tolist()]
            drawn.append((self._cover_of(points, widths), self._colour(kind.palette)))
        return drawn

    def _cover_of(self, points: Sequence[tuple[float, float]], widths: Sequence[float]) -> Pixels:
        canvas, scale = self._canvas()
        drawing = ImageDraw.Draw(canvas)
        for start, end, width in zip(points, points[1:], widths, strict=False):
            ends = [(value + 0.5) * scale - 0.5 for value in (*start, *end)]
            drawing.line(ends, 255, max(1, round(width * scale)))
            if width * scale >= 3:  # a round joint
                radius = width * scale / 2 - 0.5
                drawing.ellipse((ends[2] - radius, ends[3] - radius, ends[2] + radius, ends[3] + radius), 255)
        return self._reduced(canvas)

    def _dots(self) -> list[tuple[Pixels, Colour]]:
        """Returns covers and colours like `_lines`. All dots of one colour share a cover."""
        style, dots = self._style, self._style.dots
        canvases: dict[Colour, Image.Image] = {}
        colours = [self._colour(dots.palette) for _ in range(4)]
        for _ in range(self._number(dots.count)):
            colour = self._rng.choice(colours)
            canvas, scale = (canvases[colour], _FINE if style.smooth else 1) if colour in canvases else self._canvas()
            canvases[colour] = canvas
            x, y = (self._rng.uniform(0, side) * scale for side in (style.width, style.height))
            radius = max(0.5, self._pick(dots.radius, 0.5) * scale) - 0.5
            ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), 255)
        return [(self._reduced(canvas), colour) for colour, canvas in canvases.items()]

    def _canvas(self) -> tuple[Image.Image, int]:
        """Returns an empty mask, and how many times larger than the picture it is."""
        scale = _FINE if self._style.smooth else 1
        return Image.new("L", (self._style.width * scale, self._style.height * scale)), scale

    def _reduced(self, canvas: Image.Image) -> Pixels:
        small = canvas.reduce(_FINE) if self._style.smooth else canvas
        return (np.asarray(small, np.float32) / 255)[..., np.newaxis]

    def _lay_all(self, pixels: Pixels, drawn: Sequence[tuple[Pixels, Colour]]) -> None:
        for cover, colour in drawn:
            _lay(pixels, cover, np.asarray(colour, np.float32))


def _lay(pixels: Pixels, cover: Pixels, paint: Pixels) -> None:
    """Lays a colour over pixels, in place."""
    pixels += cover * (paint - pixels)
