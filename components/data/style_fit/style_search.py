"""Finds the style that is hardest to tell from real pictures.

First the style is measured as far as it can be seen (`style_estimates`). Then the cross-entropy method (de Boer, Kroese, Mannor and
Rubinstein, "A tutorial on the cross-entropy method", 2005) searches around it for the style whose pictures have the most similar features.
Half of the real pictures are used for that; the other half judges the result.
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
from components.data.style_fit.real_pictures import RealPictures
from components.data.style_fit.style_changes import alternatives, changed, knobs_of, turned
from components.data.style_fit.style_estimates import Measures, frame_of, without_frame
from components.data.style_fit.traced_font import trace
from components.data.style_fit.two_sample import Comparison, Distance, Floats, compare, features, grounds, ink_of

_MOST_MEASURED: Final = 100  # real pictures
_DRAWN: Final = 32  # pictures of each trial
_JUDGED_AGAINST: Final = 400  # drawn pictures
_GENERATIONS: Final = 9
_POPULATION: Final = 16
_ELITE: Final = 4
_SMOOTHING: Final = 0.7  # the weight of the new mean and deviation; the tutorial names 0.4 to 0.9
_START: Final = 0.7  # deviation of the first generation, in the units of the knobs
_WORTH: Final = 0.99  # of the distance: an effect that does not bring the pictures closer than this is left out
_TRACES: Final = 3  # a traced font finds characters better, and these trace a better font
_BETTER_FIT: Final = 0.002  # by which the characters of a traced font must correlate more with the pictures
_LEAST_FIT: Final = 0.5  # the mean correlation of the best font's characters with the pictures: noise has less
_GOOD_FIT: Final = 0.85  # the same, with which the places of the characters are measured better than a search could find them
_MOST_DRAFTS: Final = 4  # fonts that are compared by the pictures drawn with them
_LIKELY: Final = 0.8  # of the ink that the best font explains: a font that explains less is not tried further
# What is measured with a font, and fits no other.
_OF_FONT: Final = ("size", "size_each", "stretch", "start", "centred", "pitch", "gap", "baseline", "lift", "angle")
_SEED: Final = 1_000_000  # of drawn pictures; those that judge have other seeds

OnStep = Callable[[str, int, int], None]  # what is done, steps done, steps in total


@dataclass(frozen=True)
class Fitted:
    """The style found.

    Attributes:
      style: of the pictures.
      fonts: paths, the best first.
      explained: the share of the ink that the best font explains, 0 to 1.
      tried: number of fonts that were tried.
      comparison: of the real pictures that were not used for the search with drawn ones.
      measured: number of the real pictures that were used.
      judged: numbers of the others, as in RealPictures.
      drawn: drawn pictures and their labels, to look at.
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
    """Finds a style.

    Args:
      real: pictures.
      fonts: paths of fonts to choose from; all have every character of the spec.
      spec: of the labels of the pictures; its size and channels have no effect.
      font_file: a font that is traced from the pictures is written beside this file, under its name with a hash of the font.
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
            "No characters of the charset were found in the pictures. Check captcha.charset and captcha.length in the configuration; name "
            "fonts that look like that of the pictures with --set 'synth.fonts=[/path/to/font.ttf]'."
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
    """Returns the match of a font traced from the pictures; None if it fits them no better than the font that it starts from."""
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
    """A style, the fonts it is drawn with, and how well these fit the pictures."""

    style: Style
    fonts: tuple[str, ...]
    fit: float

    @property
    def measured(self) -> bool:
        """Whether the size and the places of the characters are known."""
        return self.fit >= _GOOD_FIT

    def with_shapes_of(self, other: "_Draft") -> "_Draft":
        """Returns this draft with the font of another, and its measures of the text."""
        text = self.style.text.model_copy(update={name: getattr(other.style.text, name) for name in _OF_FONT})
        return _Draft(self.style.model_copy(update={"text": text}), other.fonts, other.fit)


class _Search:
    """Looks for the style with the smallest distance from features of real pictures."""

    def __init__(self, sample: Floats, spec: CaptchaSpec):
        self._distance = Distance(*features(sample))
        self._spec = spec

    def distance(self, draft: _Draft, seed: int = 0) -> float:
        """Returns the distance of drawn pictures from the sample. The same seed draws the same texts with the same random numbers."""
        drawn = _pictures(draft.style, draft.fonts, self._spec, _DRAWN, _SEED + seed)
        return self._distance(features(_stack([image for image, _ in drawn]))[0])

    def choose(self, draft: _Draft, on_step: OnStep) -> _Draft:
        """Tries what cannot be seen directly, one thing after the other, and keeps each change that brings the pictures closer."""
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
        """Searches with the cross-entropy method around a draft."""
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
        # New texts decide, so that the search cannot win by chance.
        refined = replace(draft, style=turned(draft.style, knobs, mean))
        return min(draft, refined, key=lambda one: sum(self.distance(one, seed) for seed in range(_GENERATIONS, _GENERATIONS + 3)))


def _write_font(font: bytes, file: Path) -> str:
    """Writes a font beside `file`, with a hash of its content in the name: no font that a configuration already names is changed."""
    path = file.with_stem(f"{file.stem}-{hashlib.sha256(font).hexdigest()[:12]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(font)
    return str(path)


def _pictures(style: Style, fonts: tuple[str, ...], spec: CaptchaSpec, count: int, seed: int) -> list[tuple[Image, str]]:
    drawn = painter(SynthPlan(spec, SynthConfig(count=count, seed=seed, fonts=fonts, style=style), {}))
    return [(captcha.image, captcha.label) for captcha in map(drawn.paint, range(count))]


def _stack(images: Sequence[Image]) -> Floats:
    """Returns float32 [N, height, width, 3]."""
    return np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images])
