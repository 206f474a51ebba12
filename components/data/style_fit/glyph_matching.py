"""Finds the font of pictures, its size, and where each character is, without knowing the text.

Each character of a font is compared with a picture at every place. Dynamic programming then chooses the sequence of characters that hardly
overlap and explain as much of the picture's ink as possible. The right font in the right size explains more than any other.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.glyphs import Glyph, glyph_of

Floats = npt.NDArray[np.float32]

_MARGIN: Final = 2  # pixels of background around a character
_SOFT: Final = 0.7  # pixels by which characters and pictures are blurred, so that small differences of shape and place count little
_OVERLAP: Final = 0.25  # the share of its width by which a character may overlap the next one
_FULL_INK: Final = 0.6  # ink above this share of the strongest counts as full, so that pale characters count like dark ones
_PER_CHARACTER: Final = 0.01  # if the length varies, each further character must explain at least this share of the ink
_CHUNK: Final = 8  # pictures that are compared at once
_HEIGHTS: Final = 0.8 * 1.12 ** -np.arange(12.0)  # heights of characters to try, relative to the height of the picture
_SAMPLE: Final = 8  # pictures, and fonts, at most, for the first tries
_BETTER: Final = 40  # fonts that are also tried in neighbouring sizes
_FINAL: Final = 6  # fonts that are also tried in finer steps of size and in other widths
_COARSE: Final = 32  # pixels; pictures are reduced to this height for the first tries
# Factors of the size and of the width, tried one after the other for the final fonts.
_SIZES: Final = (0.92, 0.96, 1.0, 1.04, 1.08)
_WIDTHS: Final = (0.9, 1.1)
_SIZES_AGAIN: Final = (0.95, 0.98, 1.02, 1.05)


@dataclass(frozen=True)
class Hand:
    """A font in one size and width.

    Attributes:
      font: path of the font.
      size: of the font, in pixels.
      stretch: the factor by which characters are wider than in the font.
    """

    font: str
    size: float
    stretch: float = 1.0

    def glyphs(self, characters: str) -> list[Glyph]:
        """Returns the drawn characters."""
        return [glyph_of(character, self.font, self.size, 0.0, self.stretch) for character in characters]


@dataclass(frozen=True)
class Placed:
    """A character found in a picture.

    Attributes:
      picture: the number of the picture, from 0.
      character: the character that was found.
      pen, baseline: pixels from the left and the upper edge of the picture to the pen position of the character.
      fit: the correlation of the character with the ink at this place, at most 1.
    """

    picture: int
    character: str
    pen: float
    baseline: float
    fit: float


@dataclass(frozen=True)
class Match:
    """How well a font explains pictures.

    Attributes:
      hand: the font.
      explained: float [N], the share of the ink of each picture that the characters found explain.
      placed: the characters found, in all pictures.
    """

    hand: Hand
    explained: npt.NDArray[np.floating]
    placed: list[Placed]

    @property
    def fit(self) -> float:
        """The mean correlation of the characters found with the pictures."""
        return float(np.mean([one.fit for one in self.placed]))


class Matcher:
    """Pictures to compare fonts with."""

    def __init__(self, ink: Floats, spec: CaptchaSpec):
        """Args:
        ink: float32 [N, height, width], from `picture_features.ink_of`.
        spec: the charset and the length of the texts.
        """
        strongest = np.percentile(ink, 99, axis=(1, 2), keepdims=True)
        self._ink = ndimage.gaussian_filter((ink / (_FULL_INK * strongest).clip(10)).clip(0, 1), (0, _SOFT, _SOFT))
        self._spec = spec

    def match(self, hand: Hand) -> Match:
        """Returns how well a font explains the pictures."""
        chosen = range(len(self._ink))
        glyphs = hand.glyphs(self._spec.characters)
        explained, placed = [], list[Placed]()
        for start in range(0, len(chosen), _CHUNK):
            part = chosen[start : start + _CHUNK]
            shares, found = self._match(glyphs, part)
            explained.append(shares)
            placed += found
        return Match(hand, np.concatenate(explained), placed)

    def _match(self, glyphs: list[Glyph], part: Sequence[int]) -> tuple[Floats, list[Placed]]:
        pad = max(max(glyph.mask.size) for glyph in glyphs) // 3 + _MARGIN
        ink = np.pad(self._ink[part[0] : part[-1] + 1], ((0, 0), (pad, pad), (pad, pad)))
        templates = [_template(glyph) for glyph in glyphs]
        shape = [
            fft.next_fast_len(side + max(template.shape[axis] for template in templates), real=True)
            for axis, side in enumerate(ink.shape[1:])
        ]
        spectra = fft.rfft2(ink, shape)
        height, width = ink.shape[1:]
        energy = np.empty((len(part), len(glyphs), width), np.float32)
        rows = np.empty(energy.shape, np.int32)
        for number, template in enumerate(templates):
            found = fft.irfft2(spectra * np.conj(fft.rfft2(template, shape)), shape)[:, :height, :width].clip(0)
            rows[:, number] = found.argmax(axis=1)
            energy[:, number] = found.max(axis=1) ** 2
        total = ((ink - ink.mean(axis=(1, 2), keepdims=True)) ** 2).sum(axis=(1, 2)).clip(1e-6)
        shares, paths = self._sequences(energy / total[:, np.newaxis, np.newaxis], [glyph.mask.width for glyph in glyphs])
        placed = []
        for picture, path, signal in zip(part, paths, ink, strict=True):
            for number, x in path:
                glyph, template, y = glyphs[number], templates[number], int(rows[part.index(picture), number, x])
                patch = signal[y : y + template.shape[0], x : x + template.shape[1]]
                norm = float(np.sqrt(((patch - patch.mean()) ** 2).sum())) if patch.size else 0.0
                fit = float((patch * template[: patch.shape[0], : patch.shape[1]]).sum()) / max(norm, 1e-6)
                pen, baseline = x + _MARGIN - pad - glyph.left, y + _MARGIN - pad - glyph.top
                placed.append(Placed(picture, self._spec.characters[number], pen, baseline, min(1.0, fit)))
        return shares, placed

    def _sequences(self, energy: Floats, widths: Sequence[int]) -> tuple[Floats, list[list[tuple[int, int]]]]:
        """Finds the sequence of characters that explains most of each picture, by dynamic programming.

        Args:
          energy: float32 [N, characters, columns], the share of the ink that a character explains at a column.
          widths: of the characters, in pixels.

        Returns:
          The share of the ink that the sequence explains, float32 [N], and each sequence as pairs of the character's number and its column.
        """
        count = len(energy)
        steps = [max(2, round(width * (1 - _OVERLAP))) for width in widths]
        values, before = [energy], list[tuple[Floats, npt.NDArray[np.int64]]]()
        for _ in range(self._spec.max_length - 1):
            reached = np.maximum.accumulate(values[-1], axis=2)
            shifted = np.full_like(reached, -np.inf)
            for number, step in enumerate(steps):
                shifted[:, number, step:] = reached[:, number, :-step]
            best = shifted.argmax(axis=1)
            before.append((shifted.max(axis=1), best))
            values.append(energy + before[-1][0][:, np.newaxis])
        paths, shares = [], np.zeros(count, np.float32)
        for row in range(count):
            lengths = range(self._spec.min_length, self._spec.max_length + 1)
            length = max(lengths, key=lambda length: values[length - 1][row].max() - _PER_CHARACTER * length)
            number, x = np.unravel_index(values[length - 1][row].argmax(), energy.shape[1:])
            shares[row] = max(0.0, float(values[length - 1][row, number, x]))
            path = [(int(number), int(x))]
            for place in range(length - 2, -1, -1):
                number = before[place][1][row, path[0][1]]
                x = values[place][row, number, : max(1, path[0][1] - steps[number] + 1)].argmax()
                path.insert(0, (int(number), int(x)))
            paths.append(path)
        return shares, paths


def _template(glyph: Glyph) -> Floats:
    """Returns a character with a margin, blurred and scaled to mean 0 and norm 1: float32 [height, width]."""
    mask = np.pad(np.asarray(glyph.mask, np.float32) / 255, _MARGIN)
    mask = ndimage.gaussian_filter(mask, _SOFT, mode="constant")
    mask -= mask.mean()
    return mask / max(float(np.linalg.norm(mask)), 1e-6)


def find_hands(ink: Floats, fonts: Sequence[str], spec: CaptchaSpec, on_step: Callable[[int, int], None]) -> list[Match]:
    """Returns the fonts that explain the pictures best, at most six, the best first.

    The first three steps use some of the pictures only, reduced in size. Step 1 tries some fonts in many sizes. Step 2 tries all fonts in
    the size that explained most. Step 3 tries the best 40 in neighbouring sizes. Step 4 tries the best six of these on all pictures, in
    finer steps of size and in other widths.

    Args:
      ink: float32 [N, height, width], from `picture_features.ink_of`.
      fonts: paths of the fonts to try.
      spec: the charset and the length of the texts.
      on_step: called after each try with the number of tries so far and in total.

    Raises:
      CaptchaPipelineError: no font can be drawn.
    """
    count, height, _ = ink.shape
    unit = {font: tall for font in fonts if (tall := _height_of(font, spec.characters))}
    if not unit:
        raise CaptchaPipelineError(f"None of the {len(fonts)} fonts can draw the characters of the charset. Name others in synth.fonts.")
    some = list(unit)[:: -(-len(unit) // _SAMPLE)]
    scale = min(1.0, _COARSE / height)
    few = ndimage.zoom(ink[:: -(-count // _SAMPLE)], (1, scale, scale), order=1)
    whole, small = Matcher(ink, spec), Matcher(few, spec)
    total = (
        len(some) * len(_HEIGHTS)
        + len(unit)
        + min(_BETTER, len(unit)) * 2
        + min(_FINAL, len(unit)) * len((*_SIZES, *_WIDTHS, *_SIZES_AGAIN))
    )
    done = 0

    def match(matcher: Matcher, hand: Hand) -> Match:
        nonlocal done
        done += 1
        on_step(done, total)
        return matcher.match(hand)

    def best(matcher: Matcher, hands: Iterable[Hand]) -> Match:
        return max((match(matcher, hand) for hand in hands), key=_explained)

    first = [best(small, (Hand(font, tall * few.shape[1] / unit[font]) for font in some)) for tall in _HEIGHTS]
    tall = _HEIGHTS[int(np.argmax([_explained(found) for found in first]))] * few.shape[1]
    coarse = sorted((match(small, Hand(font, tall / unit[font])) for font in unit), key=_explained, reverse=True)[:_BETTER]
    coarse = [
        max(found, best(small, (replace(found.hand, size=found.hand.size * by) for by in (0.94, 1.06))), key=_explained) for found in coarse
    ]
    coarse.sort(key=_explained, reverse=True)
    final = [_refined(partial(best, whole), replace(found.hand, size=found.hand.size / scale)) for found in coarse[:_FINAL]]
    return sorted(final, key=_explained, reverse=True)


def _refined(best: Callable[[Iterable[Hand]], Match], hand: Hand) -> Match:
    """Returns the best match among sizes near that of `hand`, then among other widths, then among sizes again."""
    found = best(replace(hand, size=_size(hand.size * by)) for by in _SIZES)
    found = max(found, best(replace(found.hand, stretch=stretch) for stretch in _WIDTHS), key=_explained)
    return max(found, best(replace(found.hand, size=_size(found.hand.size * by)) for by in _SIZES_AGAIN), key=_explained)


def _explained(match: Match) -> float:
    return float(match.explained.mean())


def _height_of(font: str, characters: str) -> float:
    """Returns the median height of the characters relative to the font size; 0 if Pillow cannot draw the font."""
    try:
        return float(np.median([glyph_of(character, font, 64.0).mask.height for character in characters])) / 64
    except Exception:  # FreeType raises several kinds of errors, and a folder of fonts may well have a broken one
        return 0.0


def _size(size: float) -> float:
    return max(4.0, round(2 * size) / 2)
