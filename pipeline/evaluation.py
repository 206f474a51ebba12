"""Reads pictures with a pushed model: files that a user names, or a split of the data to measure the model on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from components import serving_dir
from components.errors import CaptchaPipelineError
from components.example_gen import good_records
from components.features import IMAGE, LABEL
from components.metrics import ReadingCounts, Results
from components.pictures import PictureError, inspect_picture
from components.sources import spans
from pipeline.config import Config
from pipeline.served_model import ServedModel

# The file is read before its header can be looked at. An uncompressed picture of the default pixel limit has 16 MiB.
MAX_FILE_BYTES = 64 * 2**20
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the model says of one file; `error` says why it could not be read, and is None where it could."""

    file: str
    text: str | None = None
    confidence: float | None = None
    position_confidence: tuple[float, ...] = ()
    error: str | None = None


def newest_model(config: Config) -> Path:
    """Returns the folder of the newest pushed version.

    Raises:
      CaptchaPipelineError: nothing has been pushed.
    """
    versions = serving_dir.versions(config.serving_dir)
    if not versions:
        raise CaptchaPipelineError(
            f"No model has been pushed to {config.serving_dir} yet. Make one with `captcha-pipeline run`, or give --model."
        )
    return versions[0].path


def predict(config: Config, model: Path | None, files: Sequence[Path]) -> list[Answer]:
    """Reads picture files with a model (None: the newest pushed one), and returns an answer a file, in order.

    Raises:
      CaptchaPipelineError: there is no such model.
    """
    reader = ServedModel(model or newest_model(config))
    answers: list[Answer] = []
    pictures: list[tuple[int, bytes]] = []
    for index, file in enumerate(files):
        answers.append(Answer(str(file)))
        try:
            picture = inspect_picture(_read_bounded(file), reader.spec, config.data.picture_rules)
            pictures.append((index, picture.encoded))
        except (OSError, PictureError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answers[index] = dataclasses.replace(answers[index], error=reason)
    for (index, _), reading in zip(pictures, reader.read(encoded for _, encoded in pictures), strict=True):
        if reading.valid:
            best = tuple(float(p) for p in reading.probabilities.max(axis=-1))
            answers[index] = dataclasses.replace(answers[index], text=reading.text, confidence=reading.confidence, position_confidence=best)
        else:
            answers[index] = dataclasses.replace(answers[index], error="the model could not decode the picture")
    return answers


def evaluate(config: Config, model: Path | None, split: str) -> Results:
    """Measures a model (None: the newest pushed one) on the good records of a split of the spans in the window.

    Raises:
      CaptchaPipelineError: there is no such model, no such split, or nothing in it that can be read.
    """
    reader = ServedModel(model or newest_model(config))
    window = spans.window(config.data.root, config.data.window)
    counts = ReadingCounts(reader.spec.max_length, reader.spec.num_classes)
    examples = good_records(window, split, reader.spec, config.data.picture_rules)
    batch: list[tuple[bytes, str]] = []
    for example in examples:
        batch.append((example.features.feature[IMAGE].bytes_list.value[0], example.features.feature[LABEL].bytes_list.value[0].decode()))
        if len(batch) == _BATCH:
            _count(counts, reader, batch)
            batch = []
    _count(counts, reader, batch)
    if not counts.examples:
        raise CaptchaPipelineError(f"The {split} split of {config.data.root} has no record that can be read.")
    return counts.results(config.evaluator.confidence)


def _count(counts: ReadingCounts, reader: ServedModel, batch: list[tuple[bytes, str]]) -> None:
    import numpy as np

    readings = list(reader.read(image for image, _ in batch))
    if readings:
        counts.add(np.array([reader.spec.encode(label) for _, label in batch]), np.stack([reading.probabilities for reading in readings]))


def _read_bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PictureError("image_too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data
