"""Reads pictures with an exported model, as a client of TensorFlow Serving does: encoded bytes in, text out."""

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
    """The model's reading of one picture.

    Attributes:
      text: the text; empty if `valid` is false.
      confidence: probability that the whole text is right, 0 to 1.
      probabilities: float32 [max_length, num_classes], a distribution over the classes for each position.
      valid: whether the model could decode the picture and did not refuse it.
    """

    text: str
    confidence: float
    probabilities: np.ndarray
    valid: bool


def newest_model(config: Config) -> Path:
    """Returns the folder of the newest pushed version.

    Raises:
      CaptchaPipelineError: no version has been pushed.
    """
    versions = serving_dir.versions(config.serving_dir)
    if not versions:
        raise CaptchaPipelineError(
            f"No model has been pushed to {config.serving_dir} yet. Train one with `captcha-pipeline run`, or give a model with --model."
        )
    return versions[0].path


class ServedModel:
    """A SavedModel that this pipeline exported.

    Attributes:
      spec: the texts and pictures that it reads.
      wrong_size: "resize" or "refuse", what it does with pictures of another size.
    """

    def __init__(self, directory: str | Path):
        """Loads the model in the folder `directory`.

        Raises:
          CaptchaPipelineError: the model does not exist, or this pipeline did not export it.
        """
        description = Path(directory) / "assets.extra" / features.SPEC_FILE
        try:
            about = json.loads(description.read_text(encoding="utf-8"))
            self.spec = CaptchaSpec.model_validate(about["spec"])
            self.wrong_size: Literal["resize", "refuse"] = about.get(features.WRONG_SIZE, "resize")
            self._loaded = tf.saved_model.load(str(directory))
        except (OSError, ValueError, KeyError) as error:
            raise CaptchaPipelineError(
                f"{directory} is not a model that this pipeline exported ({error}). Give --model a version folder of the serving folder."
            ) from None
        self._signature = self._loaded.signatures["serving_default"]

    def read(self, images: Iterable[bytes]) -> Iterator[Reading]:
        """Yields one reading per encoded picture, in order. The model reads batches of `BATCH_SIZE` pictures."""
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
