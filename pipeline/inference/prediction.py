"""Reads picture files for `captcha-pipeline predict`. TensorFlow is its only heavy library, so that it starts quickly."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from components.data.pictures import PictureError, inspect_picture
from components.evaluation.metrics import read
from pipeline.config.config import Config
from pipeline.inference.served_model import ServedModel

# A whole file is read before its header is checked. An uncompressed picture with the default pixel limit has 16 MiB.
MAX_FILE_BYTES: Final = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Answer:
    """The reading of one file.

    Attributes:
      file: name of the file. Bytes that are not UTF-8 are escaped, as in caf\\xe9.png, because JSON and terminals cannot show them.
      text: the text; None if the file could not be read.
      confidence: probability that the whole text is right, the product of `position_confidence`; None if the file could not be read.
      position_confidence: probability of the reading at each position. After the end of a shorter text, it is the probability that the
        position is empty.
      error: why the file could not be read; None if it was read.
    """

    file: str
    text: str | None = None
    confidence: float | None = None
    position_confidence: tuple[float, ...] = ()
    error: str | None = None


def predict(config: Config, model: Path, files: Sequence[Path]) -> list[Answer]:
    """Reads picture files and returns one answer per file, in order.

    Files in formats that the model cannot decode are converted first. The model decides whether it refuses pictures of another size.

    Args:
      config: of the pipeline.
      model: version folder of the model.
      files: the picture files.

    Raises:
      CaptchaPipelineError: the model does not exist.
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
