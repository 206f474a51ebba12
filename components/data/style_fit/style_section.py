"""Writes a fitted style as the section `synth` of a configuration, with comments that give the reasons."""

from typing import Any, Final

import yaml

from components.data.style_fit.real_pictures import RealPictures
from components.data.style_fit.style_search import Fitted

VARIATION: Final = 0.4  # the value of synth.style.variation for training pictures
_WIDTH: Final = 118  # characters of a line


def section_of(fitted: Fitted, real: RealPictures, folder: str) -> str:
    """Returns the section as YAML.

    Args:
      fitted: from `style_search.fit_style`.
      real: the real pictures.
      folder: the folder of the real pictures, as the user wrote it.
    """
    comparison, style = fitted.comparison, fitted.style
    values = style.model_dump(mode="json", exclude_defaults=True) | {"variation": VARIATION}
    reasons = _reasons(fitted, real)
    lines = [
        f"# Drawn like {len(real.pixels):,} pictures of {folder}. A classifier tells real from drawn with an AUC of {comparison.auc:.2f}",
        f"# (95 % interval {comparison.lower:.2f} to {comparison.upper:.2f}; 0.5: it can only guess, 1: it is always right).",
        "synth:",
        f"  # the best of {fitted.tried:,} fonts explains {fitted.explained:.0%} of the ink of the real pictures",
        *_yaml({"fonts": list(fitted.fonts)}, 2),
        "  style:",
    ]
    for key, value in values.items():
        lines += [f"    # {reasons[key]}"] if key in reasons else []
        lines += _yaml({key: value}, 4)
    return "\n".join(lines) + "\n"


def _reasons(fitted: Fitted, real: RealPictures) -> dict[str, str]:
    style = fitted.style
    text, ground = style.text, style.ground
    way = "in the middle of the picture" if text.centred else "at the left"
    spacing = "each character has the same width" if text.pitch else "characters have the font's own widths"
    colours = "each character has its own colour" if text.colour_each else "all characters of a picture have one colour"
    behind = "a gradient" if ground.end else "one colour for each picture"
    reasons = {
        "width": f"the size of all {len(real.pixels):,} pictures that were used",
        "text": f"the text starts {way}; {spacing}; {colours}",
        "ground": behind + (f", with a frame of {ground.frame} pixels" if ground.frame else ""),
        "lines": "kinds of lines: ink that is not text, and longer than wide",
        "dots": "ink that is neither text nor lines",
        "jpeg": "the quality of the files",
        "variation": "0 draws the style as it was found; a model learns more from pictures that vary more than that",
    }
    if not style.smooth:
        reasons["smooth"] = "there are no pixels between text and background at the edges of strokes"
    return reasons


def _yaml(values: dict[str, Any], indent: int) -> list[str]:
    text = yaml.dump(values, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=_WIDTH)
    return [" " * indent + line for line in text.splitlines()]


class _Dumper(yaml.SafeDumper):
    """Writes lists of numbers in one line."""


def _list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=not any(isinstance(value, dict | str) for value in values))


_Dumper.add_representer(list, _list)
