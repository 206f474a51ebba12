"""Transforms examples in this process, without Beam: those that the step Transform has not transformed.

Transform leaves out the test split, because no fit of a run reads it, but `audit` and `plan` use all splits. The pictures that `strength`
draws belong to no run at all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from components.base.features import IMAGE, LABEL, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture
from components.data.example_proto import Example


def decoded(files: Sequence[str], spec: CaptchaSpec, background: Sequence[int]) -> Iterator[tuple[Example, bytes]]:
    """Yields examples, each with the PIXELS that Transform makes of its picture: height x width x channels bytes.

    Args:
      files: TFRecord files with the examples of CaptchaExampleGen.
      spec: gives the size and the channels of the pixels.
      background: the colour of transparent pixels, RGB, 0 to 255.
    """

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoded = tf.io.parse_single_example(record, {IMAGE: tf.io.FixedLenFeature([], tf.string)})[IMAGE]
        return record, decode_picture(encoded, spec, background)

    pictures = tf.data.TFRecordDataset(list(files)).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for record, pixels in pictures.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield Example.FromString(record), pixels.tobytes()


def transform_like(like: str, files: Sequence[str], spec: CaptchaSpec, background: Sequence[int], path: Path) -> None:
    """Writes examples with Transform's features to a gzipped TFRecord file.

    Args:
      like: a file that Transform wrote, with at least one example. The mean and the deviation of the pixels are taken from it.
      files, spec, background: as for `decoded`.
      path: of the file to write.

    Raises:
      LabelError: a label does not fit the spec.
    """
    first = next(tf.data.TFRecordDataset(like, "GZIP").take(1).as_numpy_iterator())
    transformed = Example.FromString(first)
    feature = transformed.features.feature
    for name in set(feature).difference((PIXELS, PIXEL_MEAN, PIXEL_STD, LABEL_IDS)):
        del feature[name]
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for example, pixels in decoded(files, spec, background):
            feature[PIXELS].bytes_list.value[:] = [pixels]
            label = example.features.feature[LABEL].bytes_list.value[0].decode()
            feature[LABEL_IDS].int64_list.value[:] = spec.encode(label)
            writer.write(transformed.SerializeToString())


def write_examples(
    pictures: Sequence[tuple[bytes, str]], spec: CaptchaSpec, path: Path, statistics: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Writes pictures that are in no run, with Transform's features, to a gzipped TFRecord file.

    Args:
      pictures: at least one encoded picture (PNG or JPEG), each with its label. Their pixels must fit into memory.
      spec: the labels, and the size and channels of the pixels.
      path: of the file to write.
      statistics: the mean and the standard deviation of pixels to write with each example; None to compute them from these pictures.

    Returns:
      The mean and the standard deviation that were written.

    Raises:
      LabelError: a label does not fit the spec.
    """
    encoded = tf.data.Dataset.from_tensor_slices([picture for picture, _ in pictures])
    all_pixels = encoded.map(lambda picture: decode_picture(picture, spec), num_parallel_calls=tf.data.AUTOTUNE)
    pixels = np.stack(list(all_pixels.as_numpy_iterator()))
    # If all pixels are equal, their deviation is 0, and nothing can be divided by it.
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
