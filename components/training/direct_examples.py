"""Writes Transform's features of a few pictures without Beam, for fits outside a run of the pipeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.base.features import LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture


def write_examples(
    pictures: Sequence[tuple[bytes, str]], spec: CaptchaSpec, path: Path, statistics: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Writes a gzipped TFRecord file as Transform does, and returns the mean and the deviation of the pixels that the file states.

    Args:
      pictures: PNGs or JPEGs, at least one, and their labels. Their pixels must fit into memory.
      spec: the labels, and the size of the pixels.
      path: of the file.
      statistics: mean and deviation; None for those of these pictures, after they are resized.
    """
    encoded = tf.data.Dataset.from_tensor_slices([picture for picture, _ in pictures])
    decoded = encoded.map(lambda picture: decode_picture(picture, spec), num_parallel_calls=tf.data.AUTOTUNE)
    pixels = np.stack(list(decoded.as_numpy_iterator()))
    # The deviation of pictures of a single colour is 0, which cannot be a divisor.
    mean, std = statistics or (float(pixels.mean(dtype=np.float64)), max(float(pixels.std(dtype=np.float64)), 1.0))
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for picture, (_, label) in zip(pixels, pictures, strict=True):
            feature = {
                PIXELS: tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture.tobytes()])),
                PIXEL_MEAN: tf.train.Feature(float_list=tf.train.FloatList(value=[mean])),
                PIXEL_STD: tf.train.Feature(float_list=tf.train.FloatList(value=[std])),
                LABEL_IDS: tf.train.Feature(int64_list=tf.train.Int64List(value=spec.encode(label))),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return mean, std
