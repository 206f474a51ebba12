"""Measures a pushed model on a split of the data."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from components.base.errors import CaptchaPipelineError
from components.base.features import IMAGE, LABEL
from components.data.captcha_spec import CaptchaSpec, LabelError
from components.data.pictures import PictureError
from components.data.record_check import Superseded, check_record
from components.data.records import RecordError
from components.data.tfrecords import Record, read_records
from components.data.window import Window
from components.evaluation.metrics import ReadingCounts, Results
from components.example_gen import shards_of
from pipeline.config.config import Config
from pipeline.inference.served_model import BATCH_SIZE, ServedModel


def evaluate(config: Config, model: Path, split: str) -> Results:
    """Measures a model on the valid records of one split of the spans in the window.

    Args:
      config: of the pipeline.
      model: version folder of the model.
      split: train, eval or test.

    Raises:
      CaptchaPipelineError: the model does not exist, a shard is missing or has changed, or the split has no valid record.
    """
    return evaluate_window(config, model, split, config.data.read_window())


def evaluate_window(config: Config, model: Path, split: str, window: Window) -> Results:
    """Measures a model on the spans of a window, as `evaluate`."""
    reader = ServedModel(model)
    counts = ReadingCounts(reader.spec.max_length, reader.spec.num_classes, reader.spec.min_length)
    records = good_records(config, split, window, reader.spec)
    while batch := list(itertools.islice(records, BATCH_SIZE)):
        readings = list(reader.read(image for image, _ in batch))
        counts.add(np.array([reader.spec.encode(label) for _, label in batch]), np.stack([reading.probabilities for reading in readings]))
    if not counts.examples:
        raise CaptchaPipelineError(f"The {split} split of {config.data.root} has no valid record.")
    return counts.results(config.evaluator.confidence)


def good_records(config: Config, split: str, window: Window, spec: CaptchaSpec) -> Iterator[tuple[bytes, str]]:
    """Yields the encoded picture and the label of each record in the spans of a window that CaptchaExampleGen would accept.

    Raises:
      CaptchaPipelineError: a shard is missing or has changed.
    """
    for shard in (shard for span in window.spans for shard in shards_of(span, window) if shard.split == split):
        for item in read_records(shard.path, shard.sha256):
            with contextlib.suppress(Superseded, RecordError, LabelError, PictureError):
                if isinstance(item, Record):
                    feature = check_record(item.data, shard, spec, config.data.picture_rules).example.features.feature
                    yield feature[IMAGE].bytes_list.value[0], feature[LABEL].bytes_list.value[0].decode()
