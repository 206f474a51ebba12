"""The templates of the pages, and what they apply to values: text of numbers, and pictures made safe to show."""

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
    """The template of that name, which escapes every text and fails at a name it was not given."""
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
        "points": points,
        "picture": data_uri,
        "compare": compare,
        "p_value": p_value,
        "ranges": ranges,
    }
    return environment.get_template(name)


def points(history: Sequence[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    """The epochs (from 0) and values of a curve; a loss that is not finite has no place on it."""
    return [(i, float(epoch[key])) for i, epoch in enumerate(history) if key in epoch and math.isfinite(epoch[key])]


def compare(prediction: str, truth: str) -> list[tuple[str, bool]]:
    """The characters read, each with whether it is the right one at its place; "" where a character is missing."""
    return [(read, read == right) for read, right in itertools.zip_longest(prediction, truth, fillvalue="")]


def data_uri(data: bytes | None) -> str | None:
    """The picture as a small PNG in a data URI; None where it cannot be decoded, or is too large to try."""
    if not data:
        return None
    try:
        with Image.open(io.BytesIO(data), formats=ALLOWED_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return None
            picture = image.convert("RGBA")
    except Exception:  # Pillow raises a dozen unrelated types on broken files, and a picture is never worth the report
        return None
    picture.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def percent(share: float | None, digits: int = 1) -> str:
    """Never rounds a mistake away: 99.96 % does not become 100.0 %."""
    if share is None or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.{digits}f}"
    return f"{text}\u00a0%" if share >= 1 or float(text) < 100 else f"{100 - 10**-digits:.{digits}f}\u00a0%"


def duration(seconds: float | None) -> str:
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u00a0h\u00a0{minutes:02d}\u00a0min" if hours else f"{minutes}\u00a0min\u00a0{rest:02d}\u00a0s"


def p_value(probability: float | None) -> str:
    if probability is None or not math.isfinite(probability):
        return "–"
    return "< 0.001" if probability < 0.001 else f"{probability:.2g}" if probability < 0.1 else f"{probability:.2f}"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers in ascending order, three and more in a row as the first and the last."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def nice_ceiling(value: float) -> float:
    """The end of an axis: the next of a few steps times a power of ten, all of which divide well into four."""
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= value * (1 - 1e-9))
