"""Reads picture files that a user names. Of the heavy libraries it needs TensorFlow alone, so that the answer comes soon."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from components.data.pictures import PictureError, inspect_picture
from components.evaluation.metrics import read
from pipeline.config.config import Config
from pipeline.inference.served_model import ServedModel

# The file is read before its header can be looked at. An uncompressed picture of the default pixel limit has 16 MiB.
MAX_FILE_BYTES: Final = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says of one file; `error` says why it could not be read, and is None where it could.

    `position_confidence` has the probability of what was read at each position; after the end of a shorter text that is the
    probability that there is nothing. Their product is `confidence`.
    Bytes of a file's name that are no UTF-8 are escaped in `file`, as in caf\\xe9.png: neither JSON nor a terminal takes them.
    """

    file: str
    text: str | None = None
    confidence: float | None = None
    position_confidence: tuple[float, ...] = ()
    error: str | None = None


def predict(config: Config, model: Path, files: Sequence[Path]) -> list[Answer]:
    """Reads picture files with the model in the folder `model`, and returns an answer a file, in order.

    Files that the served model does not decode are converted for it. Whether another size is refused is for the model to say.

    Raises:
      CaptchaPipelineError: there is no such model.
    """
    reader = ServedModel(model)
    rules = dataclasses.replace(config.data.picture_rules, wrong_size=reader.wrong_size)
    answers = [Answer(os.fsencode(file).decode(errors="backslashreplace")) for file in files]
    pictures: dict[int, bytes] = {}
    for index, file in enumerate(files):
        try:
            pictures[index] = inspect_picture(_read_bounded(file), reader.spec, rules).encoded
        except (OSError, PictureError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answers[index] = dataclasses.replace(answers[index], error=reason)
    for index, reading in zip(pictures, reader.read(pictures.values()), strict=True):
        if reading.valid:
            _, chosen = read(reading.probabilities, reader.spec.min_length)
            answers[index] = dataclasses.replace(
                answers[index], text=reading.text, confidence=reading.confidence, position_confidence=tuple(chosen.tolist())
            )
        else:
            answers[index] = dataclasses.replace(answers[index], error="the model could not decode the picture")
    return answers


def _read_bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PictureError("image_too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data
