"""Changes that the search for a style makes: *knobs* are ranges that it moves and widens by degrees, *alternatives* are values to try."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from components.data.drawing.style import Palette, Style


@dataclass(frozen=True)
class Knob:
    """A way to change one range of a style by any amount.

    Attributes:
      path: the keys and indices that lead to the range in the style.
      unit: the change for a turn of 1, in the units of the range.
      of_width: whether the knob changes the width of the range; otherwise it moves the range.
      least, most: the values of the range stay between these.
      whole: whether the values of the range are whole numbers.
    """

    path: tuple[str | int, ...]
    unit: float
    of_width: bool
    least: float = 0.0
    most: float = math.inf
    whole: bool = False


def knobs_of(style: Style, measured: bool) -> list[Knob]:
    """Returns the knobs of a style, two for each range: one moves it, one changes its width.

    A range that is zero, such as the angle of straight text, has no knobs.

    Args:
      style: the style that will be changed.
      measured: whether the size and the places of the characters are known. If so, they have no knobs.
    """
    width, height, size = style.width, style.height, style.text.size[1]
    anywhere = -float(max(width, height))
    ranges: list[tuple[tuple[str | int, ...], float, float, float, bool]] = []
    if not measured:
        ranges += [
            (("text", "size"), 0.03 * size, 4, 512, False),
            (("text", "stretch"), 0.03, 0.3, 3, False),
            (("text", "start"), 0.06 * size, anywhere, 2.0 * width, False),
            (("text", "gap"), 0.05 * size, anywhere, 2.0 * width, False),
            (("text", "baseline"), 0.02 * height, anywhere, 2.0 * height, False),
            (("text", "lift"), 0.02 * height, anywhere, 2.0 * height, False),
        ]
        if style.text.pitch:
            ranges.append((("text", "pitch"), 0.03 * size, 0, 512, False))
    if any(style.blur):
        ranges.append((("blur",), 0.15, 0, 10, False))
    if any(style.text.stroke):
        ranges.append((("text", "stroke"), 0.25, 0, 8, False))
    if any(style.text.angle):
        ranges.append((("text", "angle"), 4, -180, 180, False))
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
        ranges.append(((*of, "dx"), 0.04 * width, anywhere, 2.0 * width, False))
        heights = ("dy", "bend") if any(line.bend) else ("dy",)
        ranges += [((*of, name), 0.06 * height, anywhere, 2.0 * height, False) for name in heights]
        if line.end_width:
            ranges.append(((*of, "end_width"), 0.3, 0, 20, False))
    if style.dots.count[1]:
        ranges += [(("dots", "count"), 1 + 0.15 * style.dots.count[1], 0, 1000, True), (("dots", "radius"), 0.2, 0.3, 20, False)]
    return [Knob(path, unit, of_width, least, most, whole) for path, unit, least, most, whole in ranges for of_width in (False, True)]


def turned(style: Style, knobs: Sequence[Knob], setting: npt.NDArray[np.floating]) -> Style:
    """Returns a style with its knobs turned.

    Args:
      style: the style that the knobs belong to; it is not changed.
      knobs: from `knobs_of`.
      setting: float [number of knobs], by how many units each knob is turned.
    """
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
        # Values are rounded only after all knobs have been turned, because two knobs change each range.
        parent[last] = tuple(ends)
    for knob in knobs:
        *parents, last = knob.path
        parent = tree
        for part in parents:
            parent = parent[part]
        parent[last] = tuple(round(value) if knob.whole else round(value, 2) for value in parent[last])
    return Style.model_validate(tree)


def alternatives(style: Style, measured: bool) -> list[list[dict[str, Any]]]:
    """Returns groups of changes to try. A change has new values by their paths, as for `changed`; `measured` is as for `knobs_of`."""
    width, height, palette = style.width, style.height, style.text.palette
    groups: list[list[dict[str, Any]]] = []
    for number, line in enumerate(style.lines):
        of = f"lines.{number}"
        groups += [
            [{f"{of}.count": _times(line.count, by)} for by in (0, 0.5, 1.5, 2)],
            [
                {f"{of}.width": (start, start), f"{of}.end_width": (end, end)}
                for start, end in ((1, 1), (1.5, 1.5), (2, 2), (3, 3), (3, 1), (1, 3))
            ],
            [{f"{of}.dx": _scaled(line.dx, by), f"{of}.dy": _scaled(line.dy, by)} for by in (0.7, 1.3, 1.7)],
            [{f"{of}.palette": None}],
            [{f"{of}.over": not line.over}],
        ]
    grains = ((value, scale, each) for value in (2.0, 5.0) for scale in (0.0, 1.0) for each in ((False,) if style.grey else (False, True)))
    groups += [
        [{"dots.count": _times(style.dots.count, by)} for by in (0, 0.5, 2)],
        [{"blur": (low, low + 0.2)} for low in (0.3, 0.6, 0.9)],
    ]
    if style.jpeg:  # JPEG makes the colours of strokes paler, and its blocks hide or imitate grain
        groups += [
            [{"text.palette": _saturated(palette, by)} for by in (0.8, 1.25, 1.6)],
            [{"text.palette": _brighter(palette, by)} for by in (-25, -12, 12, 25)],
        ]
    if style.jpeg or style.ground.grain[1]:
        groups.append(
            [{"ground.grain": (value, value), "ground.grain_scale": scale, "ground.grain_each": each} for value, scale, each in grains]
        )
    return groups if measured else groups + _distortions(width, height)


def _distortions(width: int, height: int) -> list[list[dict[str, Any]]]:
    """Returns groups of changes to the shape of characters. They are not needed if a font fits the pictures well."""
    scatter = [{"text.scatter": (value, value), "text.scatter_at": None} for value in (0.5, 1.0, 2.0)]
    scatter += [
        {"text.scatter": (value, value), "text.scatter_at": (at * width, at * width), "text.scatter_reach": (0.15 * width, 0.15 * width)}
        for at in (1 / 3, 1 / 2, 2 / 3)
        for value in (1.5, 3.0)
    ]
    return [
        [{"text.stroke": (value, value)} for value in (0.25, 0.5, 1.0)],
        scatter,
        [
            {"text.wave": (0, high * height), "text.wave_length": (length * width, 1.3 * length * width)}
            for high in (0.04, 0.08)
            for length in (0.25, 0.5)
        ],
        [{"text.angle": (-value, value)} for value in (0.0, 5.0, 10.0)],
    ]


def _times(counts: tuple[int, int], by: float) -> tuple[int, int]:
    return round(by * counts[0]), round(by * counts[1])


def _scaled(bounds: tuple[float, float], by: float) -> tuple[float, float]:
    return bounds[0] * by, bounds[1] * by


def _saturated(palette: Palette, by: float) -> dict[str, Any]:
    """Returns a palette whose colours differ `by` times as much from grey."""
    colours = np.asarray(palette.colours, float)
    grey = colours.mean(axis=1, keepdims=True)
    return {"colours": (grey + by * (colours - grey)).clip(0, 255).round().astype(int).tolist(), "spread": palette.spread}


def _brighter(palette: Palette, by: float) -> dict[str, Any]:
    colours = (np.asarray(palette.colours) + by).clip(0, 255).round().astype(int)
    return {"colours": colours.tolist(), "spread": palette.spread}


def changed(style: Style, change: Mapping[str, Any]) -> Style:
    """Returns a style in which some values are replaced.

    Args:
      style: it is not changed.
      change: the new values by their paths in the style, such as `text.size` or `lines.0.width`.

    Raises:
      pydantic.ValidationError: the result is not a valid style.
    """
    tree = style.model_dump()
    for path, value in change.items():
        *parents, last = path.split(".")
        parent: Any = tree
        for part in parents:
            parent = parent[int(part)] if part.isdigit() else parent[part]
        parent[last] = value
    return Style.model_validate(tree)
