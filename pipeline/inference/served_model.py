"""Reads pictures with an exported model, as a client of TensorFlow Serving would: encoded bytes in, text out."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.serving import serving_dir
from pipeline.config.config import Config

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the model says of one picture.

    Attributes:
      text: the characters it reads; empty where `valid` is false.
      confidence: its probability that all of them are right, 0 to 1.
      probabilities: float32 [max_length, num_classes], a distribution for each position.
      valid: whether the picture could be decoded, and is not refused.
    """

    text: str
    confidence: float
    probabilities: np.ndarray
    valid: bool


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


class ServedModel:
    """A SavedModel that this pipeline exported.

    Attributes:
      spec: what it reads.
      wrong_size: whether it resizes pictures of another size, or refuses them.
    """

    def __init__(self, directory: str | Path):
        """Loads the model.

        Raises:
          CaptchaPipelineError: there is no such model, or it does not come from this pipeline.
        """
        description = Path(directory) / "assets.extra" / features.SPEC_FILE
        try:
            about = json.loads(description.read_text(encoding="utf-8"))
            self.spec = CaptchaSpec.model_validate(about["spec"])
            self.wrong_size: Literal["resize", "refuse"] = about.get(features.WRONG_SIZE, "resize")
            self._loaded = tf.saved_model.load(str(directory))
        except (OSError, ValueError, KeyError) as error:
            raise CaptchaPipelineError(
                f"{directory} is not a model that this pipeline exported ({error}). Give --model a version folder of a serving directory."
            ) from None
        self._signature = self._loaded.signatures["serving_default"]

    def read(self, images: Iterable[bytes]) -> Iterator[Reading]:
        """Yields a reading for each encoded picture, in order, in batches of `BATCH_SIZE`."""
        remaining = iter(images)
        while batch := list(itertools.islice(remaining, BATCH_SIZE)):
            yield from self._read_batch(batch)

    def _read_batch(self, images: Sequence[bytes]) -> Iterator[Reading]:
        answer = {key: value.numpy() for key, value in self._signature(image=tf.constant(images, tf.string)).items()}
        for text, confidence, probabilities, valid in zip(
            answer[features.TEXT],
            answer[features.CONFIDENCE],
            answer[features.PROBABILITIES],
            answer[features.VALID],
            strict=True,
        ):
            yield Reading(text.decode(), float(confidence), probabilities, bool(valid))
