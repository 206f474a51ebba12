"""Changes to a style of drawn pictures, one at a time, to see what each costs those who read the pictures."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec, LengthRange
from components.data.drawing.painting import INSTALLED_FONTS, CaptchaPainter, SynthPlan, find_fonts, painter

_FONTS: Final = 8
_OVERLAP: Final = 0.25  # the captcha library's own
_TEXT: Final = 105  # the mean of the text's channels, which the captcha library draws from 10 to 200
_MOST: Final = {"width": 2048, "length": 64, "noise_curve": 20, "noise_dots": 10_000}  # of the configuration


@dataclass(frozen=True)
class Variant:
    """A changed style. `name` says what is changed, in words, and `plan` draws it."""

    name: str
    plan: SynthPlan


def variants(plan: SynthPlan) -> list[Variant]:
    """Returns the changes that a plan's style allows. Each is made to the plan as it is."""
    made = (change(plan) for change in _CHANGES)
    return [variant for variant in made if variant]


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
    except CaptchaPipelineError:  # no font of this machine has the characters
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


def _longer(plan: SynthPlan) -> Variant | None:
    spec = plan.spec
    if spec.max_length >= _MOST["length"]:
        return None
    length = spec.length + 1 if isinstance(spec.length, int) else LengthRange(min=spec.length.min + 1, max=spec.length.max + 1)
    if not _is_library_style(plan):  # its canvas has its own size
        return Variant("one more character", replace(plan, spec=_with(spec, length=length)))
    # As wide for each character as before.
    mean = (spec.min_length + spec.max_length) / 2
    width = min(round(spec.width * (mean + 1) / mean), _MOST["width"])
    return Variant("one more character, on a picture as much wider", replace(plan, spec=_with(spec, length=length, width=width)))


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
