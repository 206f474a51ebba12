"""Reads pictures with a pushed model: files that a user names, or a split of the data to measure the model on."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from components import serving_dir
from components.captcha import CaptchaSpec, LabelError
from components.errors import CaptchaPipelineError
from components.example_gen import shards_of
from components.example_proto import Example
from components.features import IMAGE, LABEL
from components.metrics import ReadingCounts, Results
from components.pictures import PictureError, inspect_picture
from components.record_check import check_record
from components.records import RecordError
from components.sources import spans
from components.tfrecords import Record, read_records
from pipeline.config import Config
from pipeline.served_model import BATCH_SIZE, ServedModel

# The file is read before its header can be looked at. An uncompressed picture of the default pixel limit has 16 MiB.
MAX_FILE_BYTES: Final = 64 * 2**20


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


def predict(config: Config, model: Path, files: Sequence[Path]) -> list[Answer]:
    """Reads picture files with the model in the folder `model`, and returns an answer a file, in order.

    Raises:
      CaptchaPipelineError: there is no such model.
    """
    reader = ServedModel(model)
    answers = [Answer(str(file)) for file in files]
    pictures: dict[int, bytes] = {}
    for index, file in enumerate(files):
        try:
            pictures[index] = inspect_picture(_read_bounded(file), reader.spec, config.data.picture_rules).encoded
        except (OSError, PictureError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            answers[index] = dataclasses.replace(answers[index], error=reason)
    for index, reading in zip(pictures, reader.read(pictures.values()), strict=True):
        if reading.valid:
            best = tuple(float(probability) for probability in reading.probabilities.max(axis=-1))
            answers[index] = dataclasses.replace(answers[index], text=reading.text, confidence=reading.confidence, position_confidence=best)
        else:
            answers[index] = dataclasses.replace(answers[index], error="the model could not decode the picture")
    return answers


def evaluate(config: Config, model: Path, split: str) -> Results:
    """Measures the model in the folder `model` on the good records of a split of the spans in the window.

    Raises:
      CaptchaPipelineError: there is no such model, or nothing in the split that can be read.
    """
    reader = ServedModel(model)
    counts = ReadingCounts(reader.spec.max_length, reader.spec.num_classes)
    records = _good_records(config, split, reader.spec)
    while batch := list(itertools.islice(records, BATCH_SIZE)):
        readings = list(reader.read(image for image, _ in batch))
        counts.add(np.array([reader.spec.encode(label) for _, label in batch]), np.stack([reading.probabilities for reading in readings]))
    if not counts.examples:
        raise CaptchaPipelineError(f"The {split} split of {config.data.root} has no record that can be read.")
    return counts.results(config.evaluator.confidence)


def _good_records(config: Config, split: str, spec: CaptchaSpec) -> Iterator[tuple[bytes, str]]:
    """Yields picture and label of the records that CaptchaExampleGen would let through."""
    for shard in (
        shard for span in spans.window(config.data.root, config.data.window) for shard in shards_of(span) if shard.split == split
    ):
        for item in read_records(shard.path):
            with contextlib.suppress(RecordError, LabelError, PictureError):
                if isinstance(item, Record):
                    feature = Example.FromString(check_record(item.data, shard, spec, config.data.picture_rules)).features.feature
                    yield feature[IMAGE].bytes_list.value[0], feature[LABEL].bytes_list.value[0].decode()


def _read_bounded(file: Path) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise PictureError("image_too_large", f"the file is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data
