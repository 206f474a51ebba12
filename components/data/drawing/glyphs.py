"""Fonts, characters as masks, and JPEG losses, for the modules that draw text without the captcha library."""

import functools
import io
import math
from typing import Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont

_FONTS_IN_MEMORY: Final = 512
_GLYPHS_IN_MEMORY: Final = 8_192
_STRETCH: Final = (0.2, 5.0)


class Glyph(NamedTuple):
    """A character as a mask.

    Attributes:
      mask: of mode L, 255 for ink, cropped to the ink.
      left, top: pixels from the pen position on the baseline to the left and the upper edge of the mask; to the right and down if positive.
      advance: pixels from this pen position to that of the next character.
    """

    mask: Image.Image
    left: float
    top: float
    advance: float


@functools.lru_cache(_FONTS_IN_MEMORY)
def font_of(path: str, size: float) -> ImageFont.FreeTypeFont:
    """Returns the font with this path in a size in pixels.

    Raises:
      OSError: Pillow cannot read the font.
    """
    return ImageFont.truetype(path, size)


@functools.lru_cache(_GLYPHS_IN_MEMORY)
def glyph_of(character: str, font: str, size: float, stroke: float = 0.0, stretch: float = 1.0) -> Glyph:
    """Returns a character that is not rotated.

    Args:
      character: one character, which the font has.
      font: path of a TrueType or OpenType font.
      size: of the font, in pixels.
      stroke: pixels by which strokes become wider on each side.
      stretch: the factor by which the character is wider than in the font; values outside 0.2 to 5 are clipped.

    Raises:
      OSError: Pillow cannot read the font.
    """
    stretch = min(max(stretch, _STRETCH[0]), _STRETCH[1])
    face = font_of(font, size)
    box = face.getbbox(character, anchor="ls", stroke_width=stroke)
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), character, fill=255, font=face, anchor="ls", stroke_width=stroke)
    if stretch != 1:
        mask = mask.resize((max(1, round(mask.width * stretch)), mask.height), Image.Resampling.BICUBIC)
    return Glyph(mask, left * stretch, top, face.getlength(character) * stretch)


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Returns a picture of mode RGB or L as it looks after it was stored as a JPEG of this quality, 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return opened.convert(image.mode)
