"""Measures properties of drawn pictures that make them hard to read for people. These are proxies: nobody reads the pictures.

Contrast is the contrast ratio of the Web Content Accessibility Guidelines (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio). Overlap and
stray ink stand for crowding and clutter, which cause most of the errors that people make in captchas (Chellapilla et al., "Designing Human
Friendly Human Interaction Proofs", 2005).
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.data.drawing.captcha_text import Colour, Drawn
from components.data.drawing.painting import CaptchaPainter, SynthPlan, painter
from components.data.drawing.style import DotStyle

_PICTURES: Final = 40  # that are measured
_LUMINANCE: Final = np.array([0.2126, 0.7152, 0.0722])  # weights of red, green and blue in WCAG
_NOTHING_ELSE: Final = {"lines": (), "dots": DotStyle()}  # changes a style so that it draws only text

_Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Legibility:
    """Means over some pictures of a style.

    Attributes:
      characters: the number of characters to read and to type.
      contrast: the contrast ratio of ink and background, 1 (none) to 21 (black on white).
      overlap: the share of the text's ink that lies on ink of another character, 0 to 1; None if it cannot be measured in this style.
      stray: ink outside the text, as a multiple of the text's ink; None if it cannot be measured in this style.
    """

    characters: float
    contrast: float
    overlap: float | None
    stray: float | None


def legibility(plan: SynthPlan) -> Legibility:
    """Measures the first 40 pictures of a plan.

    Raises:
      OSError: Pillow cannot read a font of the plan.
    """
    drawn_by = painter(plan)
    pictures = [drawn_by.paint(index) for index in range(_PICTURES)]
    characters = float(np.mean([len(picture.label) for picture in pictures]))
    contrast = float(np.mean([contrast_ratio(picture.image) for picture in pictures]))
    if style := plan.synth.style:
        # Without lines and dots, the same seed still draws the same text: its random numbers come before theirs.
        bare = painter(replace(plan, synth=plan.synth.model_copy(update={"style": style.model_copy(update=_NOTHING_ELSE)})))
        texts = [_ink(bare.paint(index).image) for index in range(_PICTURES)]
        outside = sum(int((_ink(picture.image) & ~ink).sum()) for picture, ink in zip(pictures, texts, strict=True))
        return Legibility(characters, contrast, None, outside / max(int(np.sum(texts)), 1))
    if not isinstance(drawn_by, CaptchaPainter):
        return Legibility(characters, contrast, None, None)
    apart = _Apart(plan)
    text, shared, stray = 0, 0, 0
    for index, picture in enumerate(pictures):
        layers = np.sum([apart.ink(index, position) for position in range(len(picture.label))], axis=0)
        text += int((layers > 0).sum())
        shared += int((layers > 1).sum())
        stray += int((_ink(picture.image) & (layers == 0)).sum())
    return Legibility(characters, contrast, shared / max(text, 1), stray / max(text, 1))


def contrast_ratio(image: Image.Image) -> float:
    """Returns the contrast ratio of the dark and the bright pixels of a picture, 1 to 21, from the mean luminance of each class.

    Otsu's method separates dark from bright pixels ("A Threshold Selection Method from Gray-Level Histograms", 1979,
    https://doi.org/10.1109/TSMC.1979.4310076).

    Args:
      image: of any mode without transparency.
    """
    values = np.asarray(image.convert("RGB")) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    luminance = linear @ _LUMINANCE
    grey = np.asarray(image.convert("L"))
    dark = grey <= _threshold(grey)
    if dark.all():
        return 1.0
    one, other = luminance[dark].mean() + 0.05, luminance[~dark].mean() + 0.05
    return float(max(one, other) / min(one, other))


def _threshold(grey: npt.NDArray[np.uint8]) -> int:
    """Returns the highest grey level of the dark class by Otsu's method; 255 if all pixels are equal."""
    counts = np.bincount(grey.ravel(), minlength=256)
    below, sums = counts.cumsum(), (counts * np.arange(256)).cumsum()
    products = (below * (grey.size - below)).astype(float)
    apart = np.divide((sums[-1] * below - grey.size * sums).astype(float) ** 2, products, out=np.zeros(256), where=products > 0)
    return int(apart.argmax()) if apart.any() else 255


def _ink(image: Image.Image) -> _Mask:
    """Returns where the ink of a picture is, bool [height, width].

    Ink differs from the background, which is the median of each channel, by more than half of the largest difference.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.int64)
    difference = np.abs(pixels - np.median(pixels, axis=(0, 1))).max(axis=-1)
    ink: _Mask = difference > max(difference.max() / 2, 1)
    return ink


class _Apart(CaptchaPainter):
    """Draws only one character of a picture, at its place in the picture, without noise.

    The random numbers for the text are those of the whole picture, because the captcha library draws the noise after the text.
    """

    def __init__(self, plan: SynthPlan):
        super().__init__(replace(plan, synth=plan.synth.model_copy(update={"noise_dots": 0, "noise_curve": False})))
        self._wanted = self._seen = 0

    def ink(self, index: int, position: int) -> _Mask:
        """Returns where the ink of the character at a position is, bool [height, width]. `index` is that of the picture."""
        self._wanted, self._seen = position, -1
        return _ink(self.paint(index).image)

    def draw_character(self, character: str, colour: Colour) -> Drawn:
        drawn = super().draw_character(character, colour)
        self._seen += character != " "  # there are spaces between characters
        return drawn if self._seen == self._wanted and character != " " else drawn._replace(image=None)
