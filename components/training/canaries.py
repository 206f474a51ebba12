"""Chooses the canaries of a model: eval pictures that it reads with great confidence, so that any machine reads them alike."""

import itertools
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from components.base.features import PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.serving.canaries import COUNT, Canary

_AMONG: Final = 256


def choose_canaries(files: Sequence[str], spec: CaptchaSpec, texts: Sequence[str], confidences: Sequence[float]) -> list[Canary]:
    """Returns the pictures with the highest confidence among the first 256 of the eval split, as PNGs of the model's size.

    Args:
      files: gzipped TFRecords of Transform's features.
      spec: the image size.
      texts: that the model reads, in the order of the records.
      confidences: in these texts, 0 to 1.
    """
    first = range(min(_AMONG, len(texts)))
    best = sorted(sorted(first, key=lambda number: -confidences[number])[:COUNT])
    records = list(itertools.islice(tf.data.TFRecordDataset(list(files), "GZIP").as_numpy_iterator(), _AMONG))
    shape = (spec.height, spec.width, spec.channels)
    canaries = []
    for number in best:
        pixels = tf.io.parse_single_example(records[number], {PIXELS: tf.io.FixedLenFeature([], tf.string)})[PIXELS]
        picture = tf.io.encode_png(tf.reshape(tf.io.decode_raw(pixels, tf.uint8), shape))
        canaries.append(Canary(picture.numpy(), texts[number]))
    return canaries
