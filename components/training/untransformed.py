"""Transforms examples in this process. Transform leaves out the test split, which no fit reads; an audit reads all splits."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from components.base.features import IMAGE, LABEL, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture
from components.data.example_proto import Example


def decoded(files: Sequence[str], spec: CaptchaSpec, background: Sequence[int]) -> Iterator[tuple[Example, bytes]]:
    """Yields examples, each with the PIXELS that Transform makes of its picture.

    Args:
      files: TFRecords of CaptchaExampleGen's examples.
      spec: gives the size of the pictures.
      background: the colour of transparent pixels, RGB, 0 to 255.
    """

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        encoded = tf.io.parse_single_example(record, {IMAGE: tf.io.FixedLenFeature([], tf.string)})[IMAGE]
        return record, decode_picture(encoded, spec, background)

    pictures = tf.data.TFRecordDataset(list(files)).map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    for record, pixels in pictures.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield Example.FromString(record), pixels.tobytes()


def transform_like(like: str, files: Sequence[str], spec: CaptchaSpec, background: Sequence[int], path: Path) -> None:
    """Writes examples as Transform's features, as gzipped TFRecords.

    Args:
      like: a file that Transform wrote. Its mean and deviation of the pixels are taken.
      files, spec, background: as for `decoded`.
      path: the file to write.
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
