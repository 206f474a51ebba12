"""Finds the style whose drawn pictures are hardest to tell from real ones.

First the style is measured as far as it can be seen (`style_estimates`). From there, the cross-entropy method (de Boer, Kroese, Mannor and
Rubinstein, "A tutorial on the cross-entropy method", 2005) searches for the style whose pictures have the most similar features. Half of
the real pictures, but at most 100, are used for this. The other pictures are used to judge the result.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL.Image import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.painting import SynthConfig, SynthPlan, painter
from components.data.drawing.style import Style
from components.data.style_fit.glyph_matching import Hand, Match, Matcher, find_hands
from components.data.style_fit.picture_features import Floats, features, grounds, ink_of
from components.data.style_fit.real_pictures import RealPictures
from components.data.style_fit.style_changes import alternatives, changed, knobs_of, turned
from components.data.style_fit.style_estimates import Measures, frame_of, without_frame
from components.data.style_fit.traced_font import trace
from components.data.style_fit.two_sample import Comparison, Distance, compare

_MOST_MEASURED: Final = 100  # real pictures that are used to find the style
_DRAWN: Final = 32  # pictures that are drawn to try a style
_JUDGED_AGAINST: Final = 400  # drawn pictures with which the result is judged
# The cross-entropy method: each generation tries _POPULATION styles. The best _ELITE of them give the mean and deviation of the next one.
_GENERATIONS: Final = 9
_POPULATION: Final = 16
_ELITE: Final = 4
_SMOOTHING: Final = 0.7  # the weight of the new mean and deviation against the old ones; the tutorial names 0.4 to 0.9
_START: Final = 0.7  # the deviation in the first generation, in the units of the knobs
_WORTH: Final = 0.99  # an effect is kept only if it reduces the distance to less than this share
_TRACES: Final = 3  # times that a font is traced: a traced font finds the characters better, and from these a better font is traced
_BETTER_FIT: Final = 0.002  # a traced font is used only if its correlation with the pictures is higher by more than this
_LEAST_FIT: Final = 0.5  # with a lower mean correlation, the font has found noise instead of characters
_GOOD_FIT: Final = 0.85  # with at least this mean correlation, measured places of characters are better than any that a search finds
_MOST_DRAFTS: Final = 4  # installed fonts with which pictures are drawn, to compare them with the real ones
_LIKELY: Final = 0.8  # such a font explains at least this share of the ink that the best font explains
# The properties of the text that are measured with a font, and that suit only this font.
_OF_FONT: Final = ("size", "size_each", "stretch", "start", "centred", "pitch", "gap", "baseline", "lift", "angle")
_SEED: Final = 1_000_000  # of the pictures that are drawn in the search; those that judge the result have another seed

OnStep = Callable[[str, int, int], None]  # takes the activity, the number of steps done, and their total


@dataclass(frozen=True)
class Fitted:
    """The style that was found.

    Attributes:
      style: the style, with `variation` 0.
      fonts: paths of the fonts to draw it with.
      explained: the share of the ink that the best of the tried fonts explains, 0 to 1. A traced font does not count.
      tried: the number of fonts that were tried.
      comparison: how well a classifier tells real pictures that were not used for the search from drawn ones.
      measured: the number of real pictures that were used for the search.
      judged: the indices of the other real pictures in `RealPictures`.
      drawn: the drawn pictures of the comparison, with their labels.
    """

    style: Style
    fonts: tuple[str, ...]
    explained: float
    tried: int
    comparison: Comparison
    measured: int
    judged: range
    drawn: list[tuple[Image, str]]


def fit_style(real: RealPictures, fonts: Sequence[str], spec: CaptchaSpec, font_file: Path, on_step: OnStep) -> Fitted:
    """Finds the style of real pictures.

    Args:
      real: the pictures.
      fonts: paths of fonts to choose from, at least one. Each has every character of the spec.
      spec: the charset and the length of the texts; its size and channels have no effect.
      font_file: where to write a font that is traced from the pictures, if it fits best. A hash of the font is added to the file name.
      on_step: called after each step.

    Raises:
      CaptchaPipelineError: the pictures have no text that resembles the characters in any of the fonts.
    """
    measured = min(_MOST_MEASURED, len(real.pixels) // 2)
    sample = real.pixels[:measured]
    frame = frame_of(sample)
    ink = without_frame(ink_of(sample, grounds(sample, frame)), frame)
    matches = find_hands(ink, fonts, spec, lambda done, total: on_step("Comparing fonts", done, total))
    if matches[0].fit < _LEAST_FIT:
        raise CaptchaPipelineError(
            "No characters of the charset were found in the pictures. Check captcha.charset and captcha.length in the configuration, or "
            "name a font that looks like that of the pictures with --set 'synth.fonts=[/path/to/font.ttf]'."
        )

    def draft(match: Match) -> _Draft:
        return _Draft(Measures(sample, frame, match).style(real.grey, real.quality), (match.hand.font,), match.fit)

    with tempfile.TemporaryDirectory() as scratch:
        drafts = [draft(match) for match in matches[:_MOST_DRAFTS] if match.explained.mean() >= _LIKELY * matches[0].explained.mean()]
        traced = _traced(ink, matches[0], spec, drafts[0].style.smooth, Path(scratch))
        drafts += [draft(traced)] if traced else []
        search = _Search(sample, spec)
        best = search.choose(drafts[-1] if traced else drafts[0], on_step)
        found = search.refine(min((best.with_shapes_of(other) for other in drafts), key=search.distance), on_step)
        judge = _pictures(found.style, found.fonts, spec, _JUDGED_AGAINST, 2 * _SEED)
        chosen = found.fonts
        if traced and chosen == (traced.hand.font,):
            chosen = (_write_font(Path(traced.hand.font).read_bytes(), font_file),)
    of_real, names = features(real.pixels)
    comparison = compare(of_real[measured:], features(_stack([image for image, _ in judge]))[0], of_real[:measured], names)
    explained = float(matches[0].explained.mean())
    return Fitted(found.style, chosen, explained, len(fonts), comparison, measured, range(measured, len(of_real)), judge)


def _traced(ink: Floats, match: Match, spec: CaptchaSpec, smooth: bool, folder: Path) -> Match | None:
    """Returns the match of a font that is traced from the pictures; None if it does not fit them better than the font of `match`."""
    best = match
    for number in range(_TRACES):
        path = folder / f"{number}.ttf"
        path.write_bytes(trace(ink, best, spec.characters, smooth))
        found = Matcher(ink, spec).match(Hand(str(path), best.hand.size))
        if found.fit <= best.fit + _BETTER_FIT:
            break
        best = found
    return None if best is match else best


@dataclass(frozen=True)
class _Draft:
    """A style, the fonts to draw it with, and the mean correlation of their characters with the pictures."""

    style: Style
    fonts: tuple[str, ...]
    fit: float

    @property
    def measured(self) -> bool:
        """Whether the font fits so well that the size and the places of the characters are known."""
        return self.fit >= _GOOD_FIT

    def with_shapes_of(self, other: "_Draft") -> "_Draft":
        """Returns this draft with the font of another draft, and with what was measured with that font."""
        text = self.style.text.model_copy(update={name: getattr(other.style.text, name) for name in _OF_FONT})
        return _Draft(self.style.model_copy(update={"text": text}), other.fonts, other.fit)


class _Search:
    """Searches for the style whose drawn pictures have the smallest `Distance` from a sample of real pictures."""

    def __init__(self, sample: Floats, spec: CaptchaSpec):
        self._distance = Distance(*features(sample))
        self._spec = spec

    def distance(self, draft: _Draft, seed: int = 0) -> float:
        """Returns the distance of pictures drawn in a style from the sample. The same seed gives the same texts and random numbers."""
        drawn = _pictures(draft.style, draft.fonts, self._spec, _DRAWN, _SEED + seed)
        return self._distance(features(_stack([image for image, _ in drawn]))[0])

    def choose(self, draft: _Draft, on_step: OnStep) -> _Draft:
        """Tries properties that cannot be measured directly, one after the other, and keeps each change that reduces the distance."""
        least = self.distance(draft)
        total = sum(len(changes) for changes in alternatives(draft.style, draft.measured))
        done = 0
        for number in range(len(alternatives(draft.style, draft.measured))):
            for change in alternatives(draft.style, draft.measured)[number]:
                trial = replace(draft, style=changed(draft.style, change))
                if (distance := self.distance(trial)) < _WORTH * least:
                    draft, least = trial, distance
                done += 1
                on_step("Trying effects", done, total)
        return draft

    def refine(self, draft: _Draft, on_step: OnStep) -> _Draft:
        """Searches around a draft with the cross-entropy method. Returns the draft itself if the search finds nothing better."""
        knobs = knobs_of(draft.style, draft.measured)
        rng = np.random.default_rng(_SEED)
        mean, deviation = np.zeros(len(knobs)), np.full(len(knobs), _START)
        for generation in range(_GENERATIONS):
            settings = mean + deviation * rng.standard_normal((_POPULATION, len(knobs)))
            settings[0] = mean
            distances = []
            for number, setting in enumerate(settings):
                distances.append(self.distance(replace(draft, style=turned(draft.style, knobs, setting)), generation))
                on_step("Refining", generation * _POPULATION + number + 1, _GENERATIONS * _POPULATION)
            elite = settings[np.argsort(distances)[:_ELITE]]
            mean += _SMOOTHING * (elite.mean(axis=0) - mean)
            deviation += _SMOOTHING * (elite.std(axis=0) - deviation)
        # The choice is made with new seeds: the result must be better by more than chance with the seeds of the search.
        refined = replace(draft, style=turned(draft.style, knobs, mean))
        return min(draft, refined, key=lambda one: sum(self.distance(one, seed) for seed in range(_GENERATIONS, _GENERATIONS + 3)))


def _write_font(font: bytes, file: Path) -> str:
    """Writes a font beside `file` and returns its path. A hash of the font in its name makes sure that no other font is overwritten."""
    path = file.with_stem(f"{file.stem}-{hashlib.sha256(font).hexdigest()[:12]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(font)
    return str(path)


def _pictures(style: Style, fonts: tuple[str, ...], spec: CaptchaSpec, count: int, seed: int) -> list[tuple[Image, str]]:
    """Draws pictures in a style. Returns them with their labels."""
    drawn = painter(SynthPlan(spec, SynthConfig(count=count, seed=seed, fonts=fonts, style=style), {}))
    return [(captcha.image, captcha.label) for captcha in map(drawn.paint, range(count))]


def _stack(images: Sequence[Image]) -> Floats:
    """Returns the pixels of pictures of one size, float32 [N, height, width, 3], 0 to 255."""
    return np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
