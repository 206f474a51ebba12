"""The proof of an export: it reads the test split like the SavedModel that it was made from."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from captcha_read.manifest import Manifest
from captcha_read.model import Reading, readings
from captcha_read.pictures import PictureError, Pixels, pixels_of
from components.base.errors import CaptchaPipelineError
from pipeline.exporting.subject import PictureReader, Probabilities
from pipeline.inference.served_model import BATCH_SIZE, ServedModel

MOST_DIFFERENCE: Final = 1e-4
MOST_LOSS: Final = 0.001


@dataclasses.dataclass(frozen=True)
class Proof:
    """How an export and its SavedModel read the test split.

    Attributes:
      pictures: the number of pictures of the test split, over all spans in the window.
      same_texts: the number of pictures that both read the same, or both refuse.
      largest_difference: between two probabilities of a picture that both read.
      accuracy: the share of pictures whose text the export reads right.
      saved_model_accuracy: the share of pictures whose text the SavedModel reads right.
    """

    pictures: int
    same_texts: int
    largest_difference: float
    accuracy: float
    saved_model_accuracy: float

    def fault(self, int8: bool) -> str:
        """Returns why this proves too little, with the figures; "" if it is enough.

        A float32 model must read all texts as the SavedModel does, with probabilities that differ by at most MOST_DIFFERENCE. A model with
        weights of 8 bits may read at most the share MOST_LOSS fewer texts right.
        """
        if int8 and round((self.saved_model_accuracy - self.accuracy) * self.pictures) > MOST_LOSS * self.pictures:
            return (
                f"it reads {self.accuracy:.2%} of {self.pictures:,} test pictures right, and the SavedModel "
                f"{self.saved_model_accuracy:.2%}: a loss of more than {100 * MOST_LOSS:g} percentage points"
            )
        if not int8 and self.same_texts < self.pictures:
            return f"it reads {self.pictures - self.same_texts:,} of {self.pictures:,} test pictures otherwise than the SavedModel"
        if not int8 and self.largest_difference > MOST_DIFFERENCE:
            return (
                f"a probability differs by {self.largest_difference:.1e} from that of the SavedModel, more than {MOST_DIFFERENCE:g}, on "
                f"{self.pictures:,} test pictures"
            )
        return ""


def prove(saved: ServedModel, read: PictureReader, records: Iterable[tuple[bytes, str]]) -> Proof:
    """Reads pictures with a SavedModel and an export of it.

    Args:
      saved: the SavedModel.
      read: reads with the opened export.
      records: encoded pictures and their labels.

    Raises:
      CaptchaPipelineError: there are no records.
    """
    pictures = same = right = saved_right = 0
    largest = 0.0
    remaining = iter(records)
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        found = read([data for data, _ in batch])
        for (_, label), theirs, (ours, probabilities) in zip(batch, saved.read(data for data, _ in batch), found, strict=True):
            label = saved.spec.canonical(label)
            pictures += 1
            both = theirs.valid and not ours.error
            same += (both and ours.text == theirs.text) or (not theirs.valid and bool(ours.error))
            right += not ours.error and ours.text == label
            saved_right += theirs.valid and theirs.text == label
            if both:
                largest = max(largest, float(np.abs(probabilities - theirs.probabilities).max()))
    if not pictures:
        raise CaptchaPipelineError("The test split has no valid record, so the export cannot be proved. Add pictures, or another span.")
    return Proof(pictures, same, largest, right / pictures, saved_right / pictures)


def pixel_reader(export: Probabilities, manifest: Manifest) -> PictureReader:
    """Returns a reader of encoded pictures with an export that gets pixels, which captcha-read's rules make from the pictures."""

    def read(pictures: Sequence[bytes]) -> list[tuple[Reading, npt.NDArray[np.float32]]]:
        decoded = [_decoded(data, manifest) for data in pictures]
        good = [pixels for pixels in decoded if not isinstance(pixels, str)]
        probabilities = export(np.stack(good)) if good else np.empty(0, np.float32)
        found = zip(readings(probabilities, manifest), probabilities, strict=True) if good else iter(())
        return [(Reading("", 0.0, (), it), np.empty(0, np.float32)) if isinstance(it, str) else next(found) for it in decoded]

    return read


def _decoded(data: bytes, manifest: Manifest) -> Pixels | str:
    """Returns the pixels of a picture, or why it is refused."""
    try:
        return pixels_of(data, manifest)
    except PictureError as error:
        return str(error)
