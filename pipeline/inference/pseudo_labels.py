"""Labels that a model gives to pictures without labels, where it is sure.

Self-training, after Lee, "Pseudo-Label" (2013). A model is sure of a reading that stays the same when the picture is moved by a few pixels
(Sajjadi et al., "Regularization With Stochastic Transformations and Perturbations", 2016), and whose confidence is high.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureError, PictureRules, visible_picture
from components.data.records import encode_png
from components.data.sources.imported import read_entry
from components.data.sources.listing import Entry
from components.data.sources.sift import Imported
from pipeline.inference.served_model import BATCH_SIZE, ServedModel

_SHIFT: Final = 2  # pixels of the model's input, as the default of trainer.shift
_MOVES: Final = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # down and to the right


@dataclass(frozen=True)
class Guess:
    """The reading of a picture without a label.

    Attributes:
      entry: the picture, with the reading as its label.
      confidence: the lowest confidence of the readings of the moved picture, 0 to 1; 0 if they differ.
    """

    entry: Entry
    confidence: float


def guesses(
    model: ServedModel, entries: Iterable[Entry], rules: PictureRules, result: Imported, on_picture: Callable[[], None]
) -> Iterator[Guess]:
    """Yields the readings of pictures, in order.

    Args:
      model: reads each picture several times, moved by a few pixels.
      entries: the pictures; their labels are not used.
      rules: how pictures are decoded.
      result: notes the pictures that cannot be read.
      on_picture: called after each picture.
    """
    pictures = _readable(entries, rules, result, on_picture)
    while batch := list(itertools.islice(pictures, BATCH_SIZE // len(_MOVES))):
        readings = model.read(view for _, picture in batch for view in moved(picture, model.spec))
        for entry, _ in batch:
            views = list(itertools.islice(readings, len(_MOVES)))
            sure = all(view.valid and view.text == views[0].text for view in views)
            confidence = min(view.confidence for view in views) if sure else 0.0
            yield Guess(replace(entry, label=views[0].text), confidence)


def _readable(
    entries: Iterable[Entry], rules: PictureRules, result: Imported, on_picture: Callable[[], None]
) -> Iterator[tuple[Entry, Image.Image]]:
    for entry in entries:
        on_picture()
        data = read_entry(entry, result)
        try:
            if data is not None:
                yield entry, visible_picture(data, rules)
        except PictureError as error:
            result.leave_out(error.reason, f"{entry.name} ({error})")


def moved(picture: Image.Image, spec: CaptchaSpec) -> Iterator[bytes]:
    """Yields a picture of mode L or RGB, and the same moved in four directions, as PNGs. Pixels beyond an edge mirror those inside."""
    down, across = (max(1, round(_SHIFT * size / wanted)) for size, wanted in ((picture.height, spec.height), (picture.width, spec.width)))
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, [(down, down), (across, across), (0, 0)][: pixels.ndim], "symmetric")
    for vertical, horizontal in _MOVES:
        top, left = down * (1 - vertical), across * (1 - horizontal)
        yield encode_png(Image.fromarray(padded[top : top + height, left : left + width]))


def surest(found: Sequence[Guess], most_wrong: float) -> list[Guess]:
    """Returns as many of the surest guesses as possible, so that no larger share of them than `most_wrong` is expected to be wrong.

    Calibrated confidences say how many are wrong: on average, 1 minus the confidence.

    Args:
      found: guesses in any order. Those with the confidence 0 are never returned.
      most_wrong: the largest expected share of wrong labels, 0 to 1.
    """
    ordered = sorted((guess for guess in found if guess.confidence), key=lambda guess: (-guess.confidence, guess.entry.name))
    doubts = itertools.accumulate(1 - guess.confidence for guess in ordered)
    count = sum(doubt <= most_wrong * number for number, doubt in enumerate(doubts, start=1))
    return ordered[:count]
