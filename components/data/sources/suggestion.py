"""Suggests the section `captcha` for a folder of labelled pictures: charset, length, size and channels."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CHARSETS
from components.data.pictures import PictureError, PictureRules, visible_picture
from components.data.sources.imported import MAX_FILE_BYTES
from components.data.sources.listing import Entry

_PICTURES: Final = 1_000  # at most this many pictures are examined for size and colour
# More pixels make a fit longer, and rarely make the model read better: see docs/recipe.md, "The size of the pictures".
_MOST_PIXELS: Final = 16_384  # of a suggested size
_MOST_PIXELS_OF_FEW: Final = 8_192  # of a suggested size, if there are fewer pictures than _FEW
_FEW: Final = 1_000  # pictures
_HIGHEST: Final = 64  # the largest suggested height, in pixels
_LEAST: Final = 8  # the least value of captcha.width and captcha.height
_WIDTH_PERCENTILE: Final = 98  # if sizes differ, this share of the pictures is no wider, in proportion, than the suggested size
# A picture is pale in grey if its contrast in grey is below this share of the contrast of its best colour channel.
_KEPT_IN_GREY: Final = 0.6
_PALE: Final = 0.02  # if more than this share of the pictures is pale in grey, colour is worth three times the bytes
# If the labels have this many characters for each character of a known set, a character that never occurred is assumed not to occur at all.
# If all characters were equally frequent, a given one would be missed with a probability of e^-10.
_SEEN_EACH: Final = 10


@dataclass(frozen=True)
class Suggestion:
    """Suggested values for keys of the section `captcha` that belong together.

    Attributes:
      values: by key.
      reason: the reason for the values, a sentence without a full stop.
    """

    values: dict[str, Any]
    reason: str


def suggest(entries: Sequence[Entry], rules: PictureRules) -> list[Suggestion]:
    """Examines labels and pictures, and returns suggestions for all keys of the section except `fit`.

    Args:
      entries: the picture files and their labels. All labels, and at most 1,000 of the pictures, are examined.
      rules: how pictures are decoded.

    Raises:
      CaptchaPipelineError: there are no entries, or no picture can be decoded.
    """
    labels = [entry.label for entry in entries]
    if not labels:
        raise CaptchaPipelineError("There is no labelled picture. Use --pattern to say where the file names have the label.")
    chosen = entries[:: -(-len(entries) // _PICTURES)]
    pictures = [picture for entry in chosen if (picture := _decoded(entry.path, rules))]
    if not pictures:
        raise CaptchaPipelineError(f"No picture can be decoded; the first of {len(chosen)} is {chosen[0].path}.")
    return [
        _charset(labels),
        _length(labels),
        _size([picture.size for picture in pictures], _MOST_PIXELS if len(entries) >= _FEW else _MOST_PIXELS_OF_FEW),
        _channels(pictures),
    ]


def _decoded(path: Path, rules: PictureRules) -> Image.Image | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return visible_picture(data, rules) if len(data) <= MAX_FILE_BYTES else None
    except (OSError, PictureError):
        return None


def _charset(labels: Sequence[str]) -> Suggestion:
    seen = Counter("".join(unicodedata.normalize("NFC", label) for label in labels))
    cased = [character for character in seen if character.lower() != character.upper()]
    has_both_cases = any(character.swapcase() in seen for character in cased)
    reason = f"{len(seen)} different characters, {seen.total():,} in total"
    # If few characters have been seen, the other characters of a known set may still occur.
    known = {**CHARSETS, CHARSETS["digits"] + CHARSETS["lower"]: CHARSETS["digits"] + CHARSETS["lower"]}
    for name, charset in sorted(known.items(), key=lambda item: len(item[1])):
        if set(seen) <= set(charset) and (len(seen) == len(charset) or seen.total() < _SEEN_EACH * len(charset)):
            unseen = f"; {len(charset) - len(seen)} more of the set may still occur" if len(seen) < len(charset) else ""
            return Suggestion({"charset": name, "case_sensitive": False}, reason + unseen)
    return Suggestion({"charset": "".join(sorted(seen)), "case_sensitive": has_both_cases}, reason)


def _length(labels: Sequence[str]) -> Suggestion:
    lengths = Counter(len(unicodedata.normalize("NFC", label)) for label in labels)
    few, most = min(lengths), max(lengths)
    if few == most:
        return Suggestion({"length": few}, "all labels have this length")
    common = ", ".join(f"{length} characters in {count / len(labels):.0%}" for length, count in lengths.most_common(3))
    return Suggestion({"length": {"min": few, "max": most}}, f"{common} of the labels")


def _size(sizes: Sequence[tuple[int, int]], most_pixels: int) -> Suggestion:
    found = Counter(sizes)
    (width, height), _ = found.most_common(1)[0]
    if len(found) == 1:
        reason = f"all pictures have {width} x {height} pixels"
    else:
        widths, heights = zip(*sizes, strict=True)
        reason = f"widths from {min(widths)} to {max(widths)}, heights from {min(heights)} to {max(heights)} pixels"
        height = int(np.median(heights))
        width = round(height * float(np.percentile([w / h for w, h in sizes], _WIDTH_PERCENTILE)))
    shrink = min(1.0, _HIGHEST / height, (most_pixels / (width * height)) ** 0.5)
    if shrink < 1:
        width, height = (max(_LEAST, round(side * shrink / 4) * 4) for side in (width, height))
        reason += ", reduced for a faster fit"
    return Suggestion({"width": width, "height": height}, reason)


def _channels(pictures: Sequence[Image.Image]) -> Suggestion:
    kept = np.array([_contrast_in_grey(picture) for picture in pictures])
    pale = float((kept < _KEPT_IN_GREY).mean())
    if (kept == 1).all():
        return Suggestion({"channels": 1}, "the pictures are grey")
    if pale > _PALE:
        return Suggestion({"channels": 3}, f"in grey, {pale:.0%} of the pictures would lose much of their contrast")
    return Suggestion({"channels": 1}, f"in grey, {1 - pale:.0%} of the pictures keep their contrast, with a third of the bytes")


def _contrast_in_grey(picture: Image.Image) -> float:
    """Returns the contrast of a picture in grey divided by that of its best channel. Contrast is the 99.5th minus the 0.5th percentile."""
    if picture.mode == "L":
        return 1.0
    grey, *channels = (np.ptp(np.percentile(np.asarray(band), (0.5, 99.5))) for band in (picture.convert("L"), *picture.split()))
    return min(1.0, float(grey) / max(1.0, *map(float, channels)))
