"""Finds the style that is hardest to tell from real pictures.

First the style is measured as far as it can be seen (`style_estimates`). Then the cross-entropy method (de Boer, Kroese, Mannor and
Rubinstein, "A tutorial on the cross-entropy method", 2005) searches around it for the style whose pictures have the most similar features.
Half of the real pictures are used for that; the other half judges the result.
"""

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL.Image import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.sources.glyph_matching import Hand, Match, Matcher, find_hands
from components.data.sources.painting import SynthConfig, SynthPlan, painter
from components.data.sources.real_pictures import RealPictures
from components.data.sources.style import Palette, Style
from components.data.sources.style_estimates import Measures, frame_of, without_frame
from components.data.sources.traced_font import trace
from components.data.sources.two_sample import Comparison, Distance, Floats, compare, features, grounds, ink_of

_MOST_MEASURED: Final = 100  # real pictures
_DRAWN: Final = 32  # pictures of each trial
_JUDGED_AGAINST: Final = 400  # drawn pictures
_GENERATIONS: Final = 10
_POPULATION: Final = 20
_ELITE: Final = 5
_SMOOTHING: Final = 0.7  # of the new mean and deviation, which is the value that the tutorial recommends
_START: Final = 0.7  # deviation of the first generation, in the units of the knobs
_ROUNDS: Final = 2  # of trying each alternative
_TRACES: Final = 3  # a traced font finds characters better, and these trace a better font
_BETTER_FIT: Final = 0.002  # by which the characters of a traced font must correlate more with the pictures
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
    """
    measured = min(_MOST_MEASURED, len(real.pixels) // 2)
    sample = real.pixels[:measured]
    frame = frame_of(sample)
    ink = without_frame(ink_of(sample, grounds(sample, frame)), frame)
    matches = find_hands(ink, fonts, spec, lambda done, total: on_step("Comparing fonts", done, total))

    def draft(match: Match) -> _Draft:
        return _Draft(Measures(sample, frame, match).style(real.grey, real.quality), (match.hand.font,))

    with tempfile.TemporaryDirectory() as scratch:
        drafts = [draft(match) for match in matches[:_MOST_DRAFTS] if match.explained.mean() >= _LIKELY * matches[0].explained.mean()]
        traced = _traced(ink, matches[0], spec, drafts[0].style.smooth, Path(scratch))
        drafts += [draft(traced)] if traced else []
        search = _Search(features(sample)[0], spec)
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
    """A style and the fonts it is drawn with."""

    style: Style
    fonts: tuple[str, ...]

    def with_shapes_of(self, other: "_Draft") -> "_Draft":
        """Returns this draft with the font of another, and its measures of the text."""
        text = self.style.text.model_copy(update={name: getattr(other.style.text, name) for name in _OF_FONT})
        return _Draft(self.style.model_copy(update={"text": text}), other.fonts)


class _Search:
    """Looks for the style with the smallest distance from features of real pictures."""

    def __init__(self, sample: Floats, spec: CaptchaSpec):
        self._distance = Distance(sample)
        self._spec = spec

    def distance(self, draft: _Draft, seed: int = 0) -> float:
        """Returns the distance of drawn pictures from the sample. The same seed draws the same texts with the same random numbers."""
        drawn = _pictures(draft.style, draft.fonts, self._spec, _DRAWN, _SEED + seed)
        return self._distance(features(_stack([image for image, _ in drawn]))[0])

    def choose(self, draft: _Draft, on_step: OnStep) -> _Draft:
        """Tries what cannot be seen directly, one thing after the other, and keeps each change that brings the pictures closer."""
        least = self.distance(draft)
        total = _ROUNDS * sum(len(changes) for changes in _alternatives(draft.style))
        done = 0
        for _ in range(_ROUNDS):
            for number in range(len(_alternatives(draft.style))):
                for change in _alternatives(draft.style)[number]:
                    trial = replace(draft, style=changed(draft.style, change))
                    if (distance := self.distance(trial)) < least - 1e-4:
                        draft, least = trial, distance
                    done += 1
                    on_step("Trying effects", done, total)
        return draft

    def refine(self, draft: _Draft, on_step: OnStep) -> _Draft:
        """Searches with the cross-entropy method around a draft."""
        knobs = list(_knobs(draft.style))
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


@dataclass(frozen=True)
class Knob:
    """A way to change a style.

    Attributes:
      path: of a range in the style.
      unit: the change of one turn, in the units of the range.
      of_width: whether the range becomes wider; otherwise it moves.
      least, most: bounds of the range.
      whole: whether its values are whole numbers.
    """

    path: tuple[str | int, ...]
    unit: float
    of_width: bool
    least: float = 0.0
    most: float = math.inf
    whole: bool = False


def _knobs(style: Style) -> Iterator[Knob]:
    width, height, size = style.width, style.height, style.text.size[1]
    anywhere = -float(max(width, height))
    ranges: list[tuple[tuple[str | int, ...], float, float, float, bool]] = [
        (("text", "size"), 0.03 * size, 4, 512, False),
        (("text", "stretch"), 0.03, 0.3, 3, False),
        (("text", "stroke"), 0.25, 0, 8, False),
        (("text", "start"), 0.06 * size, anywhere, 2.0 * width, False),
        (("text", "gap"), 0.05 * size, anywhere, 2.0 * width, False),
        (("text", "baseline"), 0.02 * height, anywhere, 2.0 * height, False),
        (("text", "lift"), 0.02 * height, anywhere, 2.0 * height, False),
        (("text", "angle"), 4, -180, 180, False),
        (("blur",), 0.15, 0, 10, False),
    ]
    if style.text.pitch:
        ranges.append((("text", "pitch"), 0.03 * size, 0, 512, False))
    if style.text.wave[1]:
        ranges += [(("text", "wave"), 0.01 * height, 0, 64, False), (("text", "wave_length"), 0.1 * width, 4, 500, False)]
    if style.text.scatter[1]:
        ranges.append((("text", "scatter"), 0.4, 0, 16, False))
        if style.text.scatter_at:
            ranges += [(("text", "scatter_at"), 0.08 * width, 0, width, False), (("text", "scatter_reach"), 0.06 * width, 1, 500, False)]
    if style.ground.grain[1]:
        ranges.append((("ground", "grain"), 2, 0, 100, False))
    for number, line in enumerate(style.lines):
        of: tuple[str | int, ...] = ("lines", number)
        ranges += [((*of, "count"), 1 + 0.15 * line.count[1], 0, 200, True), ((*of, "width"), 0.3, 0, 20, False)]
        ranges += [((*of, name), 0.04 * width, anywhere, 2.0 * width, False) for name in ("x", "dx")]
        ranges += [((*of, name), 0.06 * height, anywhere, 2.0 * height, False) for name in ("y", "dy", "bend")]
        if line.end_width:
            ranges.append(((*of, "end_width"), 0.3, 0, 20, False))
    if style.dots.count[1]:
        ranges += [(("dots", "count"), 1 + 0.15 * style.dots.count[1], 0, 1000, True), (("dots", "radius"), 0.2, 0.3, 20, False)]
    for path, unit, least, most, whole in ranges:
        yield Knob(path, unit, False, least, most, whole)
        yield Knob(path, unit, True, least, most, whole)


def turned(style: Style, knobs: Sequence[Knob], setting: npt.NDArray[np.floating]) -> Style:
    """Returns a style with its knobs turned, each by a number of units."""
    tree = style.model_dump()
    for knob, turn in zip(knobs, setting.tolist(), strict=True):
        *parents, last = knob.path
        parent: Any = tree
        for part in parents:
            parent = parent[part]
        low, high = parent[last]
        middle, half = (low + high) / 2, (high - low) / 2
        if knob.of_width:
            half = max(0.0, half + turn * knob.unit / 2)
        else:
            middle += turn * knob.unit
        ends = (min(knob.most, max(knob.least, middle + off)) for off in (-half, half))
        # Whole numbers are rounded when the knobs have been turned: two knobs turn each range.
        parent[last] = tuple(ends)
    for knob in knobs:
        *parents, last = knob.path
        parent = tree
        for part in parents:
            parent = parent[part]
        parent[last] = tuple(round(value) if knob.whole else round(value, 2) for value in parent[last])
    return Style.model_validate(tree)


def _alternatives(style: Style) -> list[list[dict[str, Any]]]:
    """Returns groups of changes to try, each as values by their path in the style."""
    width, height = style.width, style.height
    middle = (width / 2, width / 2)
    groups: list[list[dict[str, Any]]] = [
        [{"smooth": not style.smooth}],
        [{"blur": (low, low + 0.2)} for low in (0.0, 0.3, 0.6, 0.9)],
        [{"text.stroke": (value, value)} for value in (0.0, 0.25, 0.5, 0.75, 1.0)],
        [{"text.scatter": (value, value), "text.scatter_at": None} for value in (0.0, 0.5, 1.0, 2.0)],
        [
            {"text.scatter": (value, value), "text.scatter_at": at, "text.scatter_reach": (reach * width, reach * width)}
            for value in (1.0, 2.0, 3.0)
            for at in (middle, (width / 3, width / 3), (width / 1.5, width / 1.5))
            for reach in (0.1, 0.2)
        ],
        [
            {"text.wave": (0, high * height), "text.wave_length": (length * width, 1.3 * length * width)}
            for high in (0.0, 0.04, 0.08)
            for length in (0.25, 0.5)
        ],
        [{"ground.grain": (value, value), "ground.grain_scale": scale} for value in (0.0, 2.0, 5.0, 10.0) for scale in (0.0, 1.0)],
    ]
    groups.append([{"text.palette": _saturated(style.text.palette, by)} for by in (0.8, 1.25, 1.6, 2.0)])
    groups.append([{"text.palette": _brighter(style.text.palette, by)} for by in (-25, -12, 12, 25)])
    groups.append([{"dots.count": tuple(round(by * value) for value in style.dots.count)} for by in (0, 0.5, 1.5, 2)])
    for number, line in enumerate(style.lines):
        groups.append([{f"lines.{number}.palette": None}])
        groups.append([{f"lines.{number}.over": not line.over}])
        groups.append([{f"lines.{number}.width": (value, value), f"lines.{number}.end_width": None} for value in (1.0, 1.5, 2.0, 3.0)])
        groups.append([{f"lines.{number}.width": ends[:1] * 2, f"lines.{number}.end_width": ends[1:] * 2} for ends in ((3, 1), (3, 2), (1, 3))])
        groups.append([{f"lines.{number}.count": tuple(round(by * value) for value in line.count)} for by in (0, 0.5, 1.5, 2)])
    return groups


def _saturated(palette: Palette, by: float) -> dict[str, Any]:
    """Returns a palette whose colours differ more from grey."""
    colours = np.asarray(palette.colours, float)
    grey = colours.mean(axis=1, keepdims=True)
    return {"colours": (grey + by * (colours - grey)).clip(0, 255).round().astype(int).tolist(), "spread": palette.spread}


def _brighter(palette: Palette, by: float) -> dict[str, Any]:
    colours = (np.asarray(palette.colours) + by).clip(0, 255).round().astype(int)
    return {"colours": colours.tolist(), "spread": palette.spread}


def changed(style: Style, change: Mapping[str, Any]) -> Style:
    """Returns a style with other values, given by their paths such as `text.size` or `lines.0.width`."""
    tree = style.model_dump()
    for path, value in change.items():
        *parents, last = path.split(".")
        parent: Any = tree
        for part in parents:
            parent = parent[int(part)] if part.isdigit() else parent[part]
        parent[last] = value
    return Style.model_validate(tree)


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
