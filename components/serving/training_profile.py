"""The training profile beside an exported model: what the pictures looked like, and how the model read them.

A server compares its traffic with it (pipeline/server/drift_monitor.py). PROFILE_FILE in assets.extra is JSON, less than 100 kB:

    {"counts": {"brightness": {"231": 17, …}, "contrast": {…}, "sharpness": {…}, "width": {"100": 24000}, "height": {…},
                "confidence": {"998": 412, …}, "length": {"4": 2000}, "characters": {"A": 231, …}, "containing": {"A": 208, …}},
     "max_pixels": 4000000, "background": [255, 255, 255]}

The first five count the pictures of all spans that the model was trained on, by grey level or pixels. The others count the model's readings
of the eval split: by thousandths of confidence, rounded down, by characters of the text, the occurrences of each character, and the texts
that contain it. `max_pixels` and `background` are those of PictureRules. This module does not import TensorFlow.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from components.base.errors import CaptchaPipelineError
from components.base.features import BRIGHTNESS, CHARACTERS, CONFIDENCE, CONTRAST, HEIGHT, PROFILE_FILE, SHARPNESS, WIDTH
from components.data.drift import SIZE, Profile
from components.data.pictures import PictureRules

LENGTH: Final = "length"
CONTAINING: Final = "containing"
OF_PICTURES: Final = (BRIGHTNESS, CONTRAST, SHARPNESS, WIDTH, HEIGHT)
OF_READINGS: Final = (CONFIDENCE, LENGTH, CHARACTERS, CONTAINING)
_ALL: Final = (*OF_PICTURES, *OF_READINGS)

_MAX_VALUES: Final = 1000  # kept per count, the most frequent first: charsets have thousands of characters

Counts = collections.Counter[str]


def confidence_level(confidence: float) -> int:
    """Returns a confidence of 0 to 1 in thousandths, rounded down."""
    return int(1000 * confidence)


@dataclasses.dataclass(frozen=True)
class TrainingProfile:
    """See the module docstring.

    Attributes:
      counts: for each of OF_PICTURES and OF_READINGS, how often each value occurs.
      rules: how pictures were converted before they were measured.
    """

    counts: Mapping[str, Mapping[str, int]]
    rules: PictureRules

    @classmethod
    def of(cls, pictures: Iterable[Profile], texts: Iterable[str], confidences: Iterable[float], rules: PictureRules) -> "TrainingProfile":
        """Counts what a model was trained on, and what it reads.

        Args:
          pictures: the profiles of the spans.
          texts: the model's readings of pictures that it was not trained on.
          confidences: in these readings, 0 to 1.
          rules: how CaptchaExampleGen converted the pictures.
        """
        counts = {name: Counts() for name in _ALL}
        for profile in pictures:
            for name in (BRIGHTNESS, CONTRAST, SHARPNESS):
                counts[name].update(profile.counts[name])
            for size, count in profile.counts[SIZE].items():
                for name, pixels in zip((WIDTH, HEIGHT), size.split("x"), strict=True):
                    counts[name][pixels] += count
        for text in texts:
            counts[LENGTH][str(len(text))] += 1
            counts[CHARACTERS].update(text)
            counts[CONTAINING].update(set(text))
        counts[CONFIDENCE].update(str(confidence_level(confidence)) for confidence in confidences)
        return cls(counts, rules)

    def export(self, folder: Path) -> None:
        """Writes PROFILE_FILE into the folder assets.extra of a model."""
        counts = {name: dict(Counts(count).most_common(_MAX_VALUES)) for name, count in self.counts.items()}
        content = {"counts": counts, "max_pixels": self.rules.max_pixels, "background": self.rules.background}
        (folder / PROFILE_FILE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, version: Path) -> "TrainingProfile":
        """Reads the profile of an exported model in the folder `version`.

        Raises:
          CaptchaPipelineError: the model has no profile, because an earlier release exported it, or the profile is damaged.
        """
        path = version / "assets.extra" / PROFILE_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            counts = {name: _counts(content["counts"][name], number=name not in (CHARACTERS, CONTAINING)) for name in _ALL}
            red, green, blue = map(int, content["background"])
            return cls(counts, PictureRules(int(content["max_pixels"]), (red, green, blue), "resize"))
        except FileNotFoundError:
            raise CaptchaPipelineError(f"{version} has no {PROFILE_FILE}: an earlier release exported it. Train a new model.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CaptchaPipelineError(f"{path} is damaged ({type(error).__name__}: {error}). Push the model again.") from None


def _counts(values: Mapping[str, Any], number: bool) -> Counts:
    counts = Counts({str(int(value)) if number else value: int(count) for value, count in values.items()})
    if not counts or min(counts.values()) < 1:
        raise ValueError("a count is missing or not positive")
    return counts
