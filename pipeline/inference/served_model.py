"""Reads pictures with an exported model, as a client of TensorFlow Serving does: encoded bytes in, text out."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.base import features
from pipeline.inference.versions import describe, not_a_model

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
        about = describe(directory)
        self.spec, self.wrong_size = about.spec, about.wrong_size
        try:
            self._loaded = tf.saved_model.load(str(directory))
        except (OSError, ValueError, KeyError) as error:
            raise not_a_model(directory, error) from None
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
