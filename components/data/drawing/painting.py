"""Draws synthetic pictures: the plan of a span, which determines all its pictures, and the painters that draw them.

A picture depends only on the plan and its own index, so that any process can draw it.
"""

import importlib.metadata
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from captcha.image import DEFAULT_FONTS, random_color
from PIL.Image import Image
from PIL.ImageFilter import SMOOTH
from pydantic import Field, field_validator, model_validator

from components.base.errors import CaptchaPipelineError
from components.base.section import Byte, Fraction, LocalPath, Section
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.captcha_text import CaptchaText
from components.data.drawing.free_layout import FreeHand, FreeLayout
from components.data.drawing.style import Style
from components.data.drawing.style_hand import StyleHand
from components.data.spans import Layout

# The captcha library's defaults are for pictures of 160 x 60 pixels: fonts of 42, 50 and 56 points, and 30 dots.
_RELATIVE_FONT_SIZES: Final = (42 / 60, 50 / 60, 56 / 60)
_DOTS_PER_PIXEL: Final = 30 / (160 * 60)
_FONT_FILES: Final = ("*.ttf", "*.otf")
INSTALLED_FONTS: Final = "/usr/share/fonts"
_REMEDY: Final = "Name suitable fonts with --set 'synth.fonts=[/path/to/font.ttf]'."


class SynthConfig(Section):
    """The section `synth` of the configuration, which controls `data synth`."""

    count: int = Field(24_000, ge=1, description="pictures per span")
    seed: int = Field(1, ge=0, description="seed of the first span; each further span takes the next number")
    shard_size: int = Field(4_000, ge=1, description="pictures per shard; a shard is the unit of work of a worker")
    fonts: tuple[LocalPath, ...] = Field((), description="paths of fonts, or of folders of fonts; empty for the captcha library's own")
    font_sizes: tuple[Annotated[int, Field(ge=6, le=512)], ...] = Field((), description="points; empty for the captcha library's own")
    noise_dots: int | None = Field(None, ge=0, le=10_000, description="null for the captcha library's density: 30 on 160 x 60")
    noise_curve: bool | Annotated[int, Field(ge=0, le=20)] = Field(True, description="a curve through the text, or the number of curves")
    overlap: Fraction = Field(0.25, description="how far a character may move over the one before it, as a share of a character's width")
    background: tuple[Byte, Byte] = Field((238, 255), description="the darkest and the brightest value of each colour channel")
    free: FreeLayout | None = Field(None, description="text anywhere on a canvas, in many styles; null for the captcha library's style")
    style: Style | None = Field(
        None, description="a style such as `captcha-pipeline synth fit` finds; null for the captcha library's style"
    )

    @model_validator(mode="after")
    def _one_style(self) -> "SynthConfig":
        if self.free and self.style:
            raise ValueError("synth.free and synth.style cannot be combined: remove one of them")
        names = ("font_sizes", "noise_dots", "noise_curve", "overlap", "background")
        others = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.own_style and others:
            raise ValueError(
                f"{', '.join(others)} are settings of the captcha library's style: remove them, or remove synth.{self.own_style}"
            )
        return self

    @property
    def own_style(self) -> Literal["free", "style"] | None:
        """The key of the style that is not the captcha library's; None for the library's."""
        return "free" if self.free else "style" if self.style else None

    @field_validator("background")
    @classmethod
    def _darkest_first(cls, background: tuple[int, int]) -> tuple[int, int]:
        if background[0] > background[1]:
            raise ValueError("the darkest value must come first")
        return background


@dataclass(frozen=True)
class SynthPlan:
    """Everything that determines the contents of a span. With it, any process can make any shard of the span.

    Attributes:
      spec: the charset and the length of the labels, and the size of the pictures.
      synth: the number of pictures, and how they are drawn.
      splits: the relative size of each split.
      layout: of the records.
    """

    spec: CaptchaSpec
    synth: SynthConfig
    splits: dict[str, int]
    layout: Layout = "canonical"

    @property
    def shards(self) -> int:
        """The number of shards."""
        return -(-self.synth.count // self.synth.shard_size)

    @property
    def effective_fonts(self) -> tuple[str, ...]:
        """The paths of the configured fonts, or else of the captcha library's own fonts."""
        return self.synth.fonts or tuple(DEFAULT_FONTS)

    @property
    def effective_font_sizes(self) -> tuple[int, ...]:
        """The configured font sizes, or else the captcha library's own sizes, in proportion to the height of the pictures."""
        return self.synth.font_sizes or tuple(max(6, round(size * self.spec.height)) for size in _RELATIVE_FONT_SIZES)

    @property
    def effective_noise_dots(self) -> int:
        """The configured number of dots in a picture, or else as many as the captcha library's density gives."""
        return round(_DOTS_PER_PIXEL * self.spec.width * self.spec.height) if self.synth.noise_dots is None else self.synth.noise_dots

    @property
    def params(self) -> dict[str, Any]:
        """The manifest's `params`: how the pictures were drawn, as JSON values."""
        params: dict[str, Any] = {
            "count": self.synth.count,
            "shard_size": self.synth.shard_size,
            "splits": self.splits,
            "fonts": self.synth.fonts,
        }
        if self.synth.free:
            params["free"] = self.synth.free.model_dump()
        elif self.synth.style:
            params["style"] = self.synth.style.model_dump(mode="json")
        else:
            params |= {"font_sizes": self.effective_font_sizes, "noise_dots": self.effective_noise_dots}
            params |= {"noise_curve": self.synth.noise_curve, "overlap": self.synth.overlap, "background": self.synth.background}
        # A different release of either library draws different pictures from the same seed.
        return params | {name: importlib.metadata.version(name) for name in ("captcha", "pillow")}


@dataclass(frozen=True)
class Captcha:
    """A drawn picture.

    Attributes:
      image: of mode RGB or L.
      label: its text.
      params: describes how it was drawn, as JSON values.
    """

    image: Image
    label: str
    params: dict[str, Any]


class Painter(Protocol):
    """Draws the pictures of a plan."""

    def paint(self, index: int) -> Captcha:
        """Draws the picture with this index in the span, from 0. May seed the global `random`."""


def painter(plan: SynthPlan) -> Painter:
    """Returns the painter of a plan."""
    if plan.synth.free:
        return HandPainter(plan, FreeHand(plan.synth.free, plan.effective_fonts))
    if plan.synth.style:
        return HandPainter(plan, StyleHand(plan.synth.style, plan.effective_fonts))
    return CaptchaPainter(plan)


class CaptchaPainter(CaptchaText):
    """ImageCaptcha with configurable noise. With the default settings it draws the same pictures as ImageCaptcha."""

    def __init__(self, plan: SynthPlan):
        self._sizes = plan.effective_font_sizes
        super().__init__(plan.spec.width, plan.spec.height, list(plan.synth.fonts) or None, self._sizes)
        self.word_offset_dx = plan.synth.overlap
        self._plan = plan
        self._params = {
            "curve": plan.synth.noise_curve,
            "overlap": plan.synth.overlap,
            "dots": plan.effective_noise_dots,
            "font_sizes": self._sizes,
            "fonts": [Path(font).name for font in self._fonts],
        }

    def paint(self, index: int) -> Captcha:
        """Draws a picture, see `Painter.paint`. Seeds the global `random`, which the library uses."""
        plan, spec = self._plan, self._plan.spec
        random.seed(f"{plan.synth.seed}/{index}")
        label = _label(spec, random)
        image, background, colour = self.draw(label)
        params = {"background": background, "colour": colour, **self._params}
        return Captcha(image if spec.channels == 3 else image.convert("L"), label, params)

    def draw(self, label: str) -> tuple[Image, tuple[int, ...], tuple[int, ...]]:
        """Draws like ImageCaptcha.generate_image, with random numbers in the same order.

        Returns:
          The picture, of mode RGB, and the colours of the background and the text.
        """
        background = random_color(*self._plan.synth.background)
        colour = random_color(10, 200, random.randint(220, 255))  # noqa: S311
        image = self.create_captcha_image(label, colour, background)
        self.create_noise_dots(image, colour, number=self._plan.effective_noise_dots)
        for _ in range(int(self._plan.synth.noise_curve)):
            self.create_noise_curve(image, colour)
        return image.filter(SMOOTH), background, colour


class HandPainter:
    """Draws with a hand, which has its own sizes and colours: the channels and the size of the spec have no effect."""

    def __init__(self, plan: SynthPlan, hand: FreeHand | StyleHand):
        self._plan = plan
        self._hand = hand

    def paint(self, index: int) -> Captcha:
        """Draws a picture, see `Painter.paint`."""
        rng = random.Random(f"{self._plan.synth.seed}/{index}")  # noqa: S311
        label = _label(self._plan.spec, rng)
        image, params = self._hand.draw(label, rng)
        return Captcha(image, label, params)


def _label(spec: CaptchaSpec, rng: Any) -> str:
    """Returns a random label. `rng` is a random.Random, or the module `random`."""
    length = rng.randint(spec.min_length, spec.max_length)
    return "".join(rng.choices(spec.characters, k=length))


def find_fonts(paths: Iterable[str], characters: str) -> tuple[str, ...]:
    """Returns the fonts to draw these characters with. A folder stands for all its fonts that have a separate glyph for every character.

    Args:
      paths: of fonts, or of folders of fonts.
      characters: that the fonts must have.

    Raises:
      CaptchaPipelineError: a file is missing, is not a font, lacks characters or draws some alike, or a folder has no usable font. The
        message names the path, the characters and the remedy.
    """
    fonts: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            _check_font(path, characters)
            fonts.append(path)
            continue
        found = sorted(str(file) for pattern in _FONT_FILES for file in Path(path).rglob(pattern))
        usable = [font for font in found if _has_glyphs(font, characters)]
        if not usable:
            raise CaptchaPipelineError(
                f"No font in the folder {path} has all characters of the charset; fonts checked (.ttf, .otf): {len(found)}. {_REMEDY}"
            )
        fonts += usable
    return tuple(fonts)


def usable_fonts(paths: Sequence[str], characters: str) -> tuple[str, ...]:
    """Returns the fonts to try for pictures of a style that is not known yet.

    Args:
      paths: as in `find_fonts`; () for the fonts of this machine and the captcha library's own that have the characters.
      characters: that the fonts must have.

    Raises:
      CaptchaPipelineError: as `find_fonts`, or no font of this machine has the characters.
    """
    if paths:
        return find_fonts(paths, characters)
    installed = [str(file) for pattern in _FONT_FILES for file in Path(INSTALLED_FONTS).rglob(pattern)]
    usable = [font for font in (*DEFAULT_FONTS, *sorted(installed)) if _has_glyphs(font, characters)]
    if not usable:
        raise CaptchaPipelineError(f"No installed font has all characters of the charset; fonts checked: {len(installed)}. {_REMEDY}")
    return tuple(usable)


def _has_glyphs(font: str, characters: str) -> bool:
    try:
        _check_font(font, characters)
    except Exception:  # fontTools raises many kinds of errors for a broken font, and a folder of fonts may well have one
        return False
    return True


def _check_font(font: str, characters: str) -> None:
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with open(font, "rb") as file, TTFont(file, fontNumber=0, lazy=True) as opened:
            # The names of the glyphs are not needed, and take ten times as long to read as the rest.
            opened.setGlyphOrder([str(number) for number in range(opened["maxp"].numGlyphs)])
            known = opened.getBestCmap() or {}
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read the font {font}: {error.strerror}. {_REMEDY}") from None
    except (TTLibError, KeyError) as error:
        raise CaptchaPipelineError(f"{font} is not a TrueType or OpenType font: {error}. {_REMEDY}") from None
    missing = [character for character in characters if ord(character) not in known]
    if missing:
        these = f"{len(missing)} characters of the charset: {_some(missing)}"
        raise CaptchaPipelineError(f"The font {font} has no glyphs for {these}. {_REMEDY}")
    # For example, a font of last resort draws all of Unicode with a few boxes.
    drawn = Counter(known[ord(character)] for character in characters)
    alike = [character for character in characters if drawn[known[ord(character)]] > 1]
    if alike:
        raise CaptchaPipelineError(f"The font {font} draws {len(alike)} characters of the charset alike: {_some(alike)}. {_REMEDY}")


def _some(characters: Sequence[str]) -> str:
    return "".join(characters[:20]) + ("…" if len(characters) > 20 else "")
