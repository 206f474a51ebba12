"""What a folder of labelled pictures says about how to read them: charset, length, size and channels."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from components.captcha import CHARSETS
from components.errors import CaptchaPipelineError
from components.pictures import PictureError, PictureRules, visible_picture
from components.sources.imported import MAX_FILE_BYTES
from components.sources.listing import Entry

_PICTURES: Final = 1_000  # of which the sizes and the colours are looked at
# More pixels than these make a fit long, and rarely a reading better. docs/recipe.md, "The size of the pictures", has what was measured.
_MOST_PIXELS: Final = 16_384
_MOST_PIXELS_OF_FEW: Final = 8_192
_FEW: Final = 1_000  # pictures
_HIGHEST: Final = 64
_LEAST: Final = 8  # of captcha.width and captcha.height
_WIDTH_PERCENTILE: Final = 98
# Of the contrast that the best channel has, grey keeps less than this share in pictures to be read in colour.
_KEPT_IN_GREY: Final = 0.6
_PALE: Final = 0.02  # the share of such pictures from which on colour is worth three times the bytes
# With so many characters seen for each one of the charset, one that was never seen is none of it (a chance of e^-10 each, were all alike).
_SEEN_EACH: Final = 10


@dataclass(frozen=True)
class Suggestion:
    """Keys of the `captcha` section that belong together, and why they are suggested: a sentence without a full stop."""

    values: dict[str, Any]
    reason: str


def suggest(entries: Sequence[Entry], rules: PictureRules) -> list[Suggestion]:
    """Looks at labels and pictures, and returns all keys of the section but `fit`.

    Args:
      entries: files and labels, see `components.sources.listing`. All labels are looked at, and some of the pictures.
      rules: how pictures are decoded.

    Raises:
      CaptchaPipelineError: there are no entries, or no picture can be decoded.
    """
    labels = [entry.label for entry in entries]
    if not labels:
        raise CaptchaPipelineError("There is no labelled picture. Say with --pattern where in a file's name the label is.")
    chosen = entries[:: -(-len(entries) // _PICTURES)]
    pictures = [picture for entry in chosen if (picture := _decoded(entry.path, rules))]
    if not pictures:
        raise CaptchaPipelineError(f"None of {len(chosen)} pictures can be decoded; the first is {chosen[0].path}.")
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
    reason = f"{len(seen)} different characters, {seen.total():,} in all"
    # Those that a known set has besides may come yet, if few have been seen so far.
    known = {**CHARSETS, CHARSETS["digits"] + CHARSETS["lower"]: CHARSETS["digits"] + CHARSETS["lower"]}
    for name, charset in sorted(known.items(), key=lambda item: len(item[1])):
        if set(seen) <= set(charset) and (len(seen) == len(charset) or seen.total() < _SEEN_EACH * len(charset)):
            unseen = f"; {len(charset) - len(seen)} of the set may be yet to come" if len(seen) < len(charset) else ""
            return Suggestion({"charset": name, "case_sensitive": False}, reason + unseen)
    return Suggestion({"charset": "".join(sorted(seen)), "case_sensitive": has_both_cases}, reason)


def _length(labels: Sequence[str]) -> Suggestion:
    lengths = Counter(len(unicodedata.normalize("NFC", label)) for label in labels)
    few, most = min(lengths), max(lengths)
    if few == most:
        return Suggestion({"length": few}, "in all labels")
    common = ", ".join(f"{length} in {count / len(labels):.0%}" for length, count in lengths.most_common(3))
    return Suggestion({"length": {"min": few, "max": most}}, f"{common} of the labels")


def _size(sizes: Sequence[tuple[int, int]], most_pixels: int) -> Suggestion:
    found = Counter(sizes)
    (width, height), _ = found.most_common(1)[0]
    if len(found) == 1:
        reason = f"all pictures have {width} x {height} pixels"
    else:
        widths, heights = zip(*sizes, strict=True)
        reason = f"widths of {min(widths)} to {max(widths)}, heights of {min(heights)} to {max(heights)} pixels"
        height = int(np.median(heights))
        width = round(height * float(np.percentile([w / h for w, h in sizes], _WIDTH_PERCENTILE)))
    shrink = min(1.0, _HIGHEST / height, (most_pixels / (width * height)) ** 0.5)
    if shrink < 1:
        width, height = (max(_LEAST, round(side * shrink / 4) * 4) for side in (width, height))
        reason += ", made smaller to fit faster"
    return Suggestion({"width": width, "height": height}, reason)


def _channels(pictures: Sequence[Image.Image]) -> Suggestion:
    kept = np.array([_contrast_in_grey(picture) for picture in pictures])
    pale = float((kept < _KEPT_IN_GREY).mean())
    if (kept == 1).all():
        return Suggestion({"channels": 1}, "the pictures are grey")
    if pale > _PALE:
        return Suggestion({"channels": 3}, f"in grey {pale:.0%} of the pictures would lose much of their contrast")
    return Suggestion({"channels": 1}, f"in grey {1 - pale:.0%} of the pictures keep their contrast, in a third of the bytes")


def _contrast_in_grey(picture: Image.Image) -> float:
    """Returns the contrast of a picture in grey over that of its best channel, the 0.5th to the 99.5th percentile of each."""
    if picture.mode == "L":
        return 1.0
    grey, *channels = (np.ptp(np.percentile(np.asarray(band), (0.5, 99.5))) for band in (picture.convert("L"), *picture.split()))
    return min(1.0, float(grey) / max(1.0, *map(float, channels)))
