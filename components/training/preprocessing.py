"""Turns a checked record into the features of the model. The served model contains the same graph."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components.base.features import (
    BRIGHTNESS,
    CHARACTERS,
    CONTRAST,
    DRAWN,
    IMAGE,
    IS_DRAWN,
    LABEL_IDS,
    PIXEL_MEAN,
    PIXEL_STD,
    PIXELS,
    SOURCE,
)
from components.data.captcha_spec import CaptchaSpec
from components.data.decoding import decode_picture


def preprocessing_fn(inputs: Mapping[str, Any], custom_config: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Decodes and resizes the pictures, measures the training split, and turns labels into class ids.

    In the served model, PIXELS, PIXEL_MEAN and PIXEL_STD need only IMAGE, and LABEL_IDS needs only CHARACTERS, so that either can be
    computed alone. Mean and deviation are of the pictures in their original size: if Transform resizes them, they are approximate.

    Args:
      inputs: the features from CaptchaExampleGen; components/base/features.py has their types and shapes.
      custom_config: `spec`, the CaptchaSpec as JSON, and `background`, RGB from 0 to 255.

    Returns:
      PIXELS string [N], PIXEL_MEAN and PIXEL_STD float32 [N], IS_DRAWN int64 [N], LABEL_IDS int64 [N, max_length].
    """
    spec = CaptchaSpec.model_validate_json(custom_config["spec"])
    images = tf.reshape(inputs[IMAGE], [-1])
    size = spec.height * spec.width * spec.channels

    def decoded(encoded: tf.Tensor) -> tf.Tensor:
        return decode_picture(encoded, spec, custom_config["background"])

    def raw_pixels(encoded: tf.Tensor) -> tf.Tensor:
        # TFT's layer passes an empty string if the caller gives no picture.
        pixels = tf.cond(encoded == "", lambda: tf.zeros([spec.height, spec.width, spec.channels], tf.uint8), lambda: decoded(encoded))
        # A TensorProto ends with the tensor's bytes: https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/framework/tensor.proto
        return tf.strings.substr(tf.io.serialize_tensor(pixels), -size, size)

    mean, std = _pixel_statistics(inputs[BRIGHTNESS], inputs[CONTRAST])
    return {
        PIXELS: tf.map_fn(raw_pixels, images, fn_output_signature=tf.TensorSpec([], tf.string)),
        PIXEL_MEAN: tf.fill(tf.shape(images), mean),
        PIXEL_STD: tf.fill(tf.shape(images), std),
        IS_DRAWN: tf.cast(tf.reshape(inputs[SOURCE], [-1]) == DRAWN, tf.int64),
        LABEL_IDS: _label_ids(inputs[CHARACTERS], spec),
    }


def _pixel_statistics(brightness: tf.Tensor, contrast: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and standard deviation, float32 [], of all pixel values of the training split.

    By the law of total variance, the variance over all pixels is the mean over the pictures of contrast² + brightness², less the
    square of the mean. So no picture needs to be decoded.
    """
    brightness, contrast = (tf.reshape(tf.cast(measure, tf.float64), [-1]) for measure in (brightness, contrast))
    # One analysis for both means, because each analysis is a separate stage in Beam.
    moments = tf.stack([brightness, tf.square(contrast) + tf.square(brightness)], axis=1)
    mean, square = tf.unstack(tft.mean(moments, reduce_instance_dims=False))
    variance = square - tf.square(mean)
    # The deviation of pictures of a single colour is 0, which cannot be a divisor.
    return tf.cast(mean, tf.float32), tf.cast(tf.sqrt(tf.maximum(variance, 1.0)), tf.float32)


def _label_ids(characters: tf.SparseTensor, spec: CaptchaSpec) -> tf.Tensor:
    """Returns int64 [N, max_length]: the index of each character in the charset, padded with `blank_id`."""
    vocabulary = tft.make_and_track_object(
        lambda: tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(list(spec.characters), tf.range(len(spec.characters), dtype=tf.int64)),
            # Without a blank class no position is empty. CaptchaExampleGen rejects characters outside the charset.
            default_value=-1 if spec.blank_id is None else spec.blank_id,
        ),
        name="charset",
    )
    shape = tf.stack([characters.dense_shape[0], spec.max_length])
    padded = tf.sparse.to_dense(tf.SparseTensor(characters.indices, characters.values, shape), default_value="")
    return tf.ensure_shape(vocabulary.lookup(padded), [None, spec.max_length])
