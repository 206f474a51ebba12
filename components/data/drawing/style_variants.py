"""Changes a style of drawn pictures in one respect at a time, to measure how each change affects those who read the pictures."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.data.drawing.painting import INSTALLED_FONTS, CaptchaPainter, SynthPlan, find_fonts, painter
from components.data.drawing.style import Colour, Counts, DotStyle, Lengths, LineStyle, Palette, Sizes, Style, TextStyle

_FONTS: Final = 8  # more fonts are at least this many
_OVERLAP: Final = 0.25  # the captcha library's own value, used if there is no overlap yet
_TEXT: Final = 105  # the mean level of the text, whose channels the captcha library chooses between 10 and 200
_PIXELS_PER_DOT: Final = 320  # the density of the captcha library's own dots, used if there are no dots yet
_CLOSER: Final = 0.15  # how much closer characters move, as a share of the font size: about a quarter of a character
# The largest values that the configuration allows.
_MOST: Final = {"width": 2048, "length": 64, "noise_curve": 20, "noise_dots": 10_000, "dots": 2_000}


@dataclass(frozen=True)
class Variant:
    """A changed style.

    Attributes:
      name: says in words what is changed.
      plan: draws pictures in the changed style.
    """

    name: str
    plan: SynthPlan


def variants(plan: SynthPlan) -> list[Variant]:
    """Returns all changes that a plan's style allows. Each variant has one change and is otherwise like the plan."""
    made = (change(plan) for change in _CHANGES)
    return [*_restyled(plan), *(variant for variant in made if variant)]


def _changed(plan: SynthPlan, name: str, **values: Any) -> Variant:
    return Variant(name, replace(plan, synth=plan.synth.model_copy(update=values)))


def _is_library_style(plan: SynthPlan) -> bool:
    return isinstance(painter(plan), CaptchaPainter)


def _more_dots(plan: SynthPlan) -> Variant | None:
    now = plan.effective_noise_dots
    dots = min(2 * now or replace(plan, synth=plan.synth.model_copy(update={"noise_dots": None})).effective_noise_dots, _MOST["noise_dots"])
    return None if not _is_library_style(plan) or dots <= now else _changed(plan, f"more dots: {dots} instead of {now}", noise_dots=dots)


def _more_curves(plan: SynthPlan) -> Variant | None:
    now = int(plan.synth.noise_curve)
    if not _is_library_style(plan) or now >= _MOST["noise_curve"]:
        return None
    return _changed(plan, f"one more curve through the text: {now + 1} instead of {now}", noise_curve=now + 1)


def _more_overlap(plan: SynthPlan) -> Variant | None:
    now = plan.synth.overlap
    overlap = min(2 * now or _OVERLAP, 1.0)
    if not _is_library_style(plan) or overlap <= now:
        return None
    return _changed(plan, f"more overlap: up to {overlap:.0%} of a character instead of {now:.0%}".replace("%", " %"), overlap=overlap)


def _more_fonts(plan: SynthPlan) -> Variant | None:
    own = plan.effective_fonts
    try:
        others = [font for font in find_fonts([INSTALLED_FONTS], plan.spec.characters) if font not in own]
    except CaptchaPipelineError:  # no installed font has all characters
        return None
    wanted = max(_FONTS, 2 * len(own)) - len(own)
    step = max(1, len(others) // wanted)
    fonts = (*own, *others[::step][:wanted])
    return None if len(fonts) == len(own) else _changed(plan, f"more fonts: {len(fonts)} instead of {len(own)}", fonts=fonts)


def _less_contrast(plan: SynthPlan) -> Variant | None:
    now = plan.synth.background
    moved = round((_TEXT - sum(now) / 2) / 2)
    background = tuple(min(255, max(0, value + moved)) for value in now)
    if not _is_library_style(plan) or background == now:
        return None
    name = f"less contrast: a background of {background[0]} to {background[1]} instead of {now[0]} to {now[1]}"
    return _changed(plan, name, background=background)


def _more_dots_of_style(style: Style) -> tuple[str, Style] | None:
    low, high = style.dots.count
    area = style.width * style.height
    count = (min(2 * low, _MOST["dots"]), min(2 * high, _MOST["dots"])) if high else (area // _PIXELS_PER_DOT,) * 2
    if count == style.dots.count:
        return None
    dots = style.dots.model_copy(update={"count": count}) if high else DotStyle(count=count, radius=(0.5, 1.5))
    return f"more dots: {_span(count)} instead of {_span(style.dots.count)}", style.model_copy(update={"dots": dots})


def _more_lines_of_style(style: Style) -> tuple[str, Style] | None:
    if style.lines:
        first, *others = style.lines
        count = (first.count[0] + 1, first.count[1] + 1)
        more = (first.model_copy(update={"count": count}), *others)
    else:
        width, height = style.width, style.height
        more = (
            LineStyle(
                count=(1, 1),
                x=(0, 0.1 * width),
                y=(0.3 * height, 0.7 * height),
                dx=(0.8 * width, 0.9 * width),
                dy=(-0.3 * height, 0.3 * height),
                bend=(-0.2 * height, 0.2 * height),
                width=(max(1.0, height / 30),) * 2,
            ),
        )
    return "one more line", style.model_copy(update={"lines": more})


def _closer_text_of_style(style: Style) -> tuple[str, Style]:
    closer = _CLOSER * sum(style.text.size) / 2
    # If there is a pitch, it alone sets the distance between characters; the gap only moves a character away from its place.
    text = {"pitch": _moved(style.text.pitch, -closer, 0)} if style.text.pitch else {"gap": _moved(style.text.gap, -closer)}
    return f"characters {closer:.1f} pixels closer together", _with_text(style, text)


def _less_contrast_of_style(style: Style) -> tuple[str, Style] | None:
    inks = style.text.palette.colours
    ink = [sum(colour[channel] for colour in inks) / len(inks) for channel in range(3)]

    def paler(palette: Palette) -> Palette:
        colours: list[Colour] = []
        for colour in palette.colours:
            red, green, blue = (round((value + other) / 2) for value, other in zip(colour, ink, strict=True))
            colours.append((red, green, blue))
        return palette.model_copy(update={"colours": tuple(colours)})

    ground = style.ground
    changed = ground.model_copy(update={"palette": paler(ground.palette), "end": paler(ground.end) if ground.end else None})
    return None if changed == ground else ("half the contrast", style.model_copy(update={"ground": changed}))


_OF_STYLE: Final[tuple[Callable[[Style], tuple[str, Style] | None], ...]] = (
    _more_dots_of_style,
    _more_lines_of_style,
    _closer_text_of_style,
    _less_contrast_of_style,
)


def _restyled(plan: SynthPlan) -> Iterator[Variant]:
    """Yields the changes to `synth.style`, which `synth fit` has found or a person has written."""
    if plan.synth.style is None:
        return
    for change in _OF_STYLE:
        if found := change(plan.synth.style):
            name, style = found
            yield _changed(plan, name, style=style)


def _with_text(style: Style, text: dict[str, Any]) -> Style:
    return style.model_copy(update={"text": TextStyle(**(style.text.model_dump() | text))})


def _moved(bounds: Lengths | Sizes, by: float, least: float = -math.inf) -> tuple[float, float]:
    low, high = bounds
    return max(low + by, least), max(high + by, least)


def _span(count: Counts) -> str:
    low, high = count
    return f"{low}" if low == high else f"{low} to {high}"


def _longer(plan: SynthPlan) -> Variant | None:
    spec, style = plan.spec, plan.synth.style
    if spec.max_length >= _MOST["length"]:
        return None
    length = spec.length + 1 if isinstance(spec.length, int) else LengthRange(min=spec.length.min + 1, max=spec.length.max + 1)
    if plan.synth.free:  # its pictures do not have the size of the spec
        return Variant("one more character", replace(plan, spec=_with(spec, length=length)))
    # The picture becomes wider, so that each character has as much room as before.
    mean = (spec.min_length + spec.max_length) / 2
    width = min(round(spec.width * (mean + 1) / mean), _MOST["width"])
    longer = replace(plan, spec=_with(spec, length=length, width=width))
    name = "one more character, on a picture that is wider in proportion"
    return _changed(longer, name, style=_wider(style, (mean + 1) / mean)) if style else Variant(name, longer)


def _wider(style: Style, times: float) -> Style:
    width = min(round(style.width * times), _MOST["width"])
    added = width - style.width
    lines = tuple(line.model_copy(update={"x": (line.x[0], line.x[1] + added)}) for line in style.lines)
    wider = style.model_copy(update={"width": width, "lines": lines})
    return _with_text(wider, {"start": _moved(style.text.start, added / 2)}) if style.text.centred else wider


def _with(spec: CaptchaSpec, **values: Any) -> CaptchaSpec:
    return CaptchaSpec(**(spec.model_dump() | values))


_CHANGES: Final[tuple[Callable[[SynthPlan], Variant | None], ...]] = (
    _more_dots,
    _more_curves,
    _more_overlap,
    _more_fonts,
    _less_contrast,
    _longer,
)
