"""Loads the page templates, and defines their filters: numbers as text, and pictures as safe PNGs."""

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import jinja2
from PIL import Image

from components.data.pictures import ALLOWED_FORMATS

MAX_PIXELS: Final = 4_000_000  # larger pictures are not decoded
THUMBNAIL: Final = (320, 160)  # pixels, the largest width and height of a picture in the report


def template(name: str) -> jinja2.Template:
    """Returns a template of pipeline/reporting/templates. It escapes all text, and raises an error for an undefined variable."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "thousands": lambda number: f"{number:,}",
        "nice": nice_ceiling,
        "log10": math.log10,
        "points": points,
        "picture": data_uri,
        "compare": compare,
        "p_value": p_value,
        "ranges": ranges,
    }
    return environment.get_template(name)


def points(history: Sequence[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    """Returns a curve as pairs of epoch (from 0) and value. Values that are not finite are left out."""
    return [(i, float(epoch[key])) for i, epoch in enumerate(history) if key in epoch and math.isfinite(epoch[key])]


def compare(prediction: str, truth: str) -> list[tuple[str, bool]]:
    """Returns the predicted character at each position and whether it is right. "" stands for a missing character."""
    return [(read, read == right) for read, right in itertools.zip_longest(prediction, truth, fillvalue="")]


def data_uri(data: bytes | None) -> str | None:
    """Returns the picture as a data URI of a small PNG; None if it cannot be decoded or has more than MAX_PIXELS pixels."""
    if not data:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            picture = image.convert("RGBA")
    except Exception:  # Pillow raises a dozen unrelated types for broken files; a picture must not stop the report
        return None
    picture.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def percent(share: float | None, digits: int = 1) -> str:
    """Returns a share as a percentage; "–" for None, NaN and infinity. Rounds down to stay below 100 %: 99.96 % becomes 99.9 %."""
    if share is None or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.{digits}f}"
    return f"{text}\u00a0%" if share >= 1 or float(text) < 100 else f"{100 - 10**-digits:.{digits}f}\u00a0%"


def duration(seconds: float | None) -> str:
    """Returns seconds as text, such as "4 min 23 s"; "–" for None, NaN and infinity."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h\u00a0{minutes:02d}\u00a0min" if hours else f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"


def p_value(probability: float | None) -> str:
    """Returns a p-value with two digits, or "< 0.001"; "–" for None, NaN and infinity."""
    if probability is None or not math.isfinite(probability):
        return "–"
    return "< 0.001" if probability < 0.001 else f"{probability:.2g}" if probability < 0.1 else f"{probability:.2f}"


def ranges(numbers: Sequence[int]) -> str:
    """Returns numbers in ascending order as text. Three or more consecutive numbers become a range: "1–3, 7"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def nice_ceiling(value: float) -> float:
    """Returns the end of an axis: a round number not below `value` that divides well by four; 1 if `value` is not positive and finite."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= value * (1 - 1e-9))
