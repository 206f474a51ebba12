"""Draws text pixel for pixel like the captcha library, with the same random numbers, in half of the time.

The library renders each character again, and also rotates and warps the spaces, which show nothing.
"""

import functools
import random
from typing import Final, NamedTuple

import numpy as np
from captcha.image import ImageCaptcha
from PIL import Image, ImageDraw, ImageFont

from components.data.drawing.glyphs import font_of

Colour = tuple[int, ...]

_CHARACTERS_IN_MEMORY: Final = 8_192
_CLEAR: Final = (0, 0, 0, 0)
# The opacity with which the library pastes a pixel, by its brightness.
_OPACITIES: Final = np.minimum(ImageCaptcha.lookup_table, 255).astype(np.uint8)


class Rendered(NamedTuple):
    """A character that is neither rotated nor warped.

    Attributes:
      ink: of mode L, 255 for ink, cropped to the ink; None for a character without ink, such as a space.
      right, bottom: the corner of the box of the character, in pixels from the pen position, plus 1.
    """

    ink: Image.Image | None
    right: int
    bottom: int


class Drawn(NamedTuple):
    """A character of a picture.

    Attributes:
      image: of mode RGBA; None for a character without ink.
      width, height: of the character, in pixels.
    """

    image: Image.Image | None
    width: int
    height: int


class CaptchaText(ImageCaptcha):
    """ImageCaptcha with a faster `create_captcha_image`."""

    @property
    def truefonts(self) -> list[ImageFont.FreeTypeFont]:
        """Each font in each size. All generators of a process share them, and so their rendered characters."""
        return [font_of(font, size) for font in self._fonts for size in self._font_sizes]

    def create_captcha_image(self, chars: str, color: Colour, background: Colour) -> Image.Image:
        """Draws a text like ImageCaptcha.

        Args:
          chars: the text.
          color: of the text: red, green, blue and opacity, at least 128. (The library draws the faintest pixels of a less opaque text
            with an opacity of 0, and cuts them off.)
          background: its red, green and blue.

        Returns:
          The picture, of mode RGB, without noise.
        """
        drawn = []
        for character in chars:
            if random.random() > self.word_space_probability:  # noqa: S311
                drawn.append(self.draw_character(" ", color))
            drawn.append(self.draw_character(character, color))
        text_width = sum(one.width for one in drawn)
        image = Image.new("RGB", (max(text_width, self._width), self._height), background)
        average = int(text_width / len(chars))
        overlap, left = int(self.word_offset_dx * average), int(average * 0.1)
        for one in drawn:
            if one.image:
                opacity = Image.fromarray(_OPACITIES[np.asarray(one.image.convert("L"))])
                image.paste(one.image, (left, int((self._height - one.height) / 2)), opacity)
            left += one.width + random.randint(-overlap, 0)  # noqa: S311
        return image if image.width == self._width else image.resize((self._width, self._height))

    def draw_character(self, character: str, colour: Colour) -> Drawn:
        """Draws a character, rotated and warped at random."""
        font = random.choice(self.truefonts)  # noqa: S311
        offsets = random.randint(*self.character_offset_dx), random.randint(*self.character_offset_dy)  # noqa: S311
        glyph = _rendered(font, character, *offsets)
        angle = random.uniform(*self.character_rotate)  # noqa: S311
        across = glyph.right * random.uniform(*self.character_warp_dx)  # noqa: S311
        down = glyph.bottom * random.uniform(*self.character_warp_dy)  # noqa: S311
        x1, y1, x2, y2 = (int(random.uniform(-most, most)) for most in (across, down, across, down))  # noqa: S311
        size = glyph.right, glyph.bottom
        if glyph.ink is None:
            return Drawn(None, *size)
        image = Image.new("RGBA", glyph.ink.size, _CLEAR)
        image.paste(colour, (0, 0), glyph.ink)
        width, height = glyph.right + abs(x1) + abs(x2), glyph.bottom + abs(y1) + abs(y2)
        corners = (x1, y1, -x1, height - y2, width + x2, height + y2, width - x2, -y1)
        image = image.rotate(angle, Image.Resampling.BILINEAR, expand=True).resize((width, height))
        return Drawn(image.transform(size, Image.Transform.QUAD, corners), *size)


@functools.lru_cache(_CHARACTERS_IN_MEMORY)
def _rendered(font: ImageFont.FreeTypeFont, character: str, across: int, down: int) -> Rendered:
    """Renders a character. Like the library, it cuts off what is more than `across` pixels left of the pen, or `down` pixels above it."""
    _, _, right, bottom = map(int, ImageDraw.Draw(Image.new("RGBA", (1, 1))).multiline_textbbox((1, 1), character, font=font))
    canvas = Image.new("L", (right + across, bottom + down))
    ImageDraw.Draw(canvas).text((across, down), character, fill=255, font=font)
    box = canvas.getbbox()
    return Rendered(canvas.crop(box) if box else None, right, bottom)
