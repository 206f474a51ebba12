"""Reads picture files for `captcha-pipeline predict`, with an export if there is one. Imports TensorFlow only without an export."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from components.base.errors import CaptchaPipelineError
from components.data.pictures import PictureError, inspect_picture
from components.evaluation.metrics import read
from pipeline.config.config import Config
from pipeline.inference.versions import describe

# A whole file is read before its header is checked. An uncompressed picture with the default pixel limit has 16 MiB.
MAX_FILE_BYTES: Final = 64 * 2**20
_NOT_DECODED: Final = "the model could not decode the picture"


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


def predict(config: Config, model: Path, files: Sequence[Path], export: Path | None = None) -> list[Answer]:
    """Reads picture files and returns one answer per file, in order.

    Files in formats that the model cannot decode are converted first. The model decides whether it refuses pictures of another size.

    Args:
      config: of the pipeline.
      model: version folder of the model.
      files: the picture files.
      export: folder of an ONNX export of the model, which reads instead of the SavedModel.

    Raises:
      CaptchaPipelineError: the model does not exist, or the export is damaged.
    """
    about = describe(model)
    rules = dataclasses.replace(config.data.picture_rules, wrong_size=about.wrong_size)
    answers = [Answer(os.fsencode(file).decode(errors="backslashreplace")) for file in files]
    pictures: dict[int, bytes] = {}
    for index, file in enumerate(files):
        try:
            pictures[index] = inspect_picture(_read_bounded(file), about.spec, rules).encoded
        except (OSError, PictureError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answers[index] = dataclasses.replace(answers[index], error=reason)
    readings = _read_with_export(export, pictures.values()) if export else _read_with_saved_model(model, pictures.values())
    for index, reading in zip(pictures, readings, strict=True):
        answers[index] = dataclasses.replace(reading, file=answers[index].file)
    return answers


def _read_with_saved_model(model: Path, pictures: Iterable[bytes]) -> Iterator[Answer]:
    from pipeline.inference.served_model import ServedModel

    reader = ServedModel(model)
    for reading in reader.read(pictures):
        if reading.valid:
            _, chosen = read(reading.probabilities, reader.spec.min_length)
            yield Answer("", reading.text, reading.confidence, tuple(chosen.tolist()))
        else:
            yield Answer("", error=_NOT_DECODED)


def _read_with_export(export: Path, pictures: Iterable[bytes]) -> Iterator[Answer]:
    from captcha_read.manifest import ExportError
    from captcha_read.model import Model

    try:
        reader = Model(export / "model.onnx")
    except ExportError as error:
        raise CaptchaPipelineError(f"{error} Or remove the folder {export}: `predict` then reads with the SavedModel.") from None
    for reading in reader.read(pictures):
        if reading.error:
            yield Answer("", error=_NOT_DECODED)
        else:
            yield Answer("", reading.text, reading.confidence, reading.position_confidence)


def _read_bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PictureError("image_too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data
