"""Draws text anywhere on a canvas: no fixed positions, many fonts, free spacing, thin and bold strokes, one or many colours, some clutter.

Lengths in this module are in pixels for a canvas that is 80 pixels high. They scale with the height of the canvas.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pydantic import Field, model_validator

from components.base.section import Section
from components.data.drawing.glyphs import font_of, through_jpeg

_HEIGHT: Final = 80
_FONT_SIZE: Final = (0.42, 0.85)  # as shares of the height
_MARGIN: Final = 0.04  # at the left and at the right, as a share of the width
_MAX_ANGLE: Final = 30.0  # degrees
_MAX_STROKE: Final = 3  # pixels by which the boldest strokes become wider on each side
# The least difference, in at least one channel, between a stroke and its background. Light yellow differs from white only in blue.
_MIN_CONTRAST: Final = 70
_LIGHT: Final = (195, 255)
_DARK: Final = (0, 70)

Colour = tuple[int, int, int]


class PixelRange(Section):
    """An inclusive range of pixels, written `{min: 190, max: 640}`."""

    min: int = Field(ge=8, le=2048)
    max: int = Field(ge=8, le=2048)

    @model_validator(mode="after")
    def _ordered(self) -> "PixelRange":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class FreeLayout(Section):
    """The ranges of the width and the height of a canvas, in pixels. They do not depend on the size of the model's input."""

    width: PixelRange = PixelRange(min=190, max=640)
    height: PixelRange = PixelRange(min=80, max=80)

    def has_one_size(self, width: int, height: int) -> bool:
        """Returns whether every canvas has this size, in pixels."""
        return (self.width.min, self.width.max, self.height.min, self.height.max) == (width, width, height, height)


class FreeHand:
    """Draws labels on canvases of a layout, in fonts chosen at random."""

    def __init__(self, layout: FreeLayout, fonts: Sequence[str]):
        """Args:
        layout: the sizes of the canvas.
        fonts: paths of TrueType or OpenType fonts that have every character of the labels.
        """
        self._layout = layout
        self._fonts = fonts

    def draw(self, label: str, rng: random.Random) -> tuple[Image.Image, dict[str, Any]]:
        """Returns a picture of mode RGB, and the random choices that were made for it, as JSON values."""
        width = rng.randint(self._layout.width.min, self._layout.width.max)
        height = rng.randint(self._layout.height.min, self._layout.height.max)
        unit = height / _HEIGHT
        image, ground = _ground(width, height, rng)
        fonts = [rng.choice(self._fonts)] * len(label) if rng.random() < 0.6 else rng.choices(self._fonts, k=len(label))
        colours = [_ink(ground, rng)] * len(label) if rng.random() < 0.5 else [_ink(ground, rng) for _ in label]
        stroke = rng.choice((0, 0, 0, 0, 1, 1, 2, _MAX_STROKE)) * unit
        angle = rng.uniform(0, _MAX_ANGLE)
        lines, dots = rng.choice((0, 0, 1, 2, 3, 4)), rng.choice((0, 0, rng.randint(5, 60)))
        if rng.random() < 0.12:
            _draw_grid(image, ground, unit, rng)
        size = self._write(image, label, fonts, colours, stroke, angle, rng)
        _clutter(image, lines, dots, colours, ground, unit, rng)
        blur = rng.uniform(0.2, 0.9) * unit if rng.random() < 0.3 else 0.0
        image = image.filter(ImageFilter.GaussianBlur(blur)) if blur else image
        quality = rng.randint(30, 90) if rng.random() < 0.3 else None
        about = {
            "font_size": size,
            "fonts": sorted({Path(font).name for font in fonts}),
            "stroke": round(stroke, 2),
            "angle": round(angle, 1),
            "lines": lines,
            "dots": dots,
            "blur": round(blur, 2),
            "jpeg": quality,
        }
        return image if quality is None else through_jpeg(image, quality), about

    def _write(
        self,
        image: Image.Image,
        label: str,
        fonts: Sequence[str],
        colours: Sequence[Colour],
        stroke: float,
        angle: float,
        rng: random.Random,
    ) -> int:
        """Writes the characters from left to right, and returns the font size in pixels."""
        width, height = image.size
        inner = width * (1 - 2 * _MARGIN)
        size = rng.uniform(*_FONT_SIZE) * height
        angles = [rng.uniform(-angle, angle) for _ in label]
        # In a sixth of the pictures, characters overlap by up to a tenth of the font size.
        overlap = rng.uniform(0, 0.1) if rng.random() < 1 / 6 else 0.0
        while True:
            glyphs = [
                _glyph(character, font, round(size), round(stroke), turn)
                for character, font, turn in zip(label, fonts, angles, strict=True)
            ]
            room = inner - sum(glyph.width for glyph in glyphs) + overlap * size * (len(label) - 1)
            tallest = max(glyph.height for glyph in glyphs)
            if (room >= 0 and tallest <= height) or size < 8:
                break
            size *= 0.97 * min(1.0, inner / (inner - room), height / tallest)
        # The free width is divided among the start, the end and the gaps between characters. The gaps may be uneven.
        between = max(0.0, room) * rng.random() ** 1.5
        unevenness = rng.random()
        shares = [1 + unevenness * rng.uniform(-1, 1) for _ in label[1:]]
        x = width * _MARGIN + (max(0.0, room) - between) * rng.random()
        swing, slope = rng.random(), rng.uniform(-1, 1)
        for number, (glyph, colour) in enumerate(zip(glyphs, colours, strict=True)):
            free = height - glyph.height
            lift = swing * (slope * (2 * number / max(1, len(label) - 1) - 1) + rng.uniform(-1, 1)) / 2
            image.paste(colour, (round(x), round(free * (1 + lift) / 2)), glyph)
            if number < len(shares):
                x += glyph.width + between * shares[number] / sum(shares) - overlap * size
        return round(size)


def _glyph(character: str, font: str, size: int, stroke: int, angle: float) -> Image.Image:
    """Returns a character as a mask of mode L, rotated by an angle in degrees and cropped to the ink."""
    side = 3 * size
    mask = Image.new("L", (side, side))
    ImageDraw.Draw(mask).text((side / 2, side / 2), character, fill=255, font=font_of(font, size), anchor="mm", stroke_width=stroke)
    box = mask.getbbox() or (0, 0, 1, 1)
    mask = mask.crop(box).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return mask.crop(mask.getbbox() or (0, 0, 1, 1))


def _ground(width: int, height: int, rng: random.Random) -> tuple[Image.Image, list[Colour]]:
    """Returns a canvas, and its colours: one for a plain canvas, two for a gradient."""
    tones = _LIGHT if rng.random() < 0.85 else _DARK
    start = _colour(tones, rng)
    if rng.random() >= 0.25:
        return Image.new("RGB", (width, height), start), [start]
    end = _colour(tones, rng)
    direction = rng.uniform(0, 2 * math.pi)
    columns, rows = np.meshgrid(np.linspace(-0.5, 0.5, width), np.linspace(-0.5, 0.5, height))
    way = columns * math.cos(direction) + rows * math.sin(direction)
    way = (way - way.min()) / (way.max() - way.min())
    pixels = np.asarray(start) + way[..., np.newaxis] * (np.asarray(end) - np.asarray(start))
    return Image.fromarray(pixels.round().astype(np.uint8)), [start, end]


def _colour(tones: tuple[int, int], rng: random.Random) -> Colour:
    return rng.randint(*tones), rng.randint(*tones), rng.randint(*tones)


def _ink(ground: Sequence[Colour], rng: random.Random) -> Colour:
    """Returns a colour that is visible against every colour of the background."""
    while True:
        colour = _colour((0, 255), rng)
        if all(max(abs(one - other) for one, other in zip(colour, behind, strict=True)) >= _MIN_CONTRAST for behind in ground):
            return colour


def _draw_grid(image: Image.Image, ground: Sequence[Colour], unit: float, rng: random.Random) -> None:
    red, green, blue = (value + rng.randint(-60, 60) for value in ground[0])
    colour = tuple(min(255, max(0, value)) for value in (red, green, blue))
    step = max(4, round(rng.uniform(8, 20) * unit))
    drawing = ImageDraw.Draw(image)
    for x in range(rng.randrange(step), image.width, step):
        drawing.line((x, 0, x, image.height), colour)
    for y in range(rng.randrange(step), image.height, step):
        drawing.line((0, y, image.width, y), colour)


def _clutter(
    image: Image.Image, lines: int, dots: int, colours: Sequence[Colour], ground: Sequence[Colour], unit: float, rng: random.Random
) -> None:
    """Draws lines, half of them curved, and dots over the text, in the colours of the text or in random colours."""
    drawing = ImageDraw.Draw(image)
    width, height = image.size

    def colour() -> Colour:
        return rng.choice(colours) if rng.random() < 0.5 else _ink(ground, rng)

    def bend() -> float:
        return rng.uniform(-height, height)

    for _ in range(lines):
        start = rng.uniform(0, width / 2), rng.uniform(0, height)
        end = rng.uniform(width / 2, width), rng.uniform(0, height)
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + (bend() if rng.random() < 0.5 else 0.0)
        # A quadratic Bézier curve.
        points = [
            tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c for a, b, c in zip(start, middle, end, strict=True))
            for t in (step / 24 for step in range(25))
        ]
        drawing.line(points, colour(), max(1, round(rng.uniform(0.6, 3) * unit)), joint="curve")
    for _ in range(dots):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.4, 1.6) * unit
        drawing.ellipse((x - radius, y - radius, x + radius, y + radius), colour())
