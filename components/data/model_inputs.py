"""Converts Transform's features to the input tensor of the model, in training and in the served model."""

import tensorflow as tf

from components.base.features import PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec


def model_inputs(features: dict[str, tf.Tensor], spec: CaptchaSpec) -> tf.Tensor:
    """Converts a batch of Transform's features to the input of the model.

    Args:
      features: PIXELS, PIXEL_MEAN and PIXEL_STD, each [N] or [N, 1].
      spec: gives the image size and the channels.

    Returns:
      float32 [N, height, width, channels], (pixel - mean) / std.
    """
    return normalise(pixels_of(features, spec), features)


def pixels_of(features: dict[str, tf.Tensor], spec: CaptchaSpec) -> tf.Tensor:
    """Returns the pixels of a batch as uint8 [N, height, width, channels], from PIXELS, [N] or [N, 1]."""
    raw = tf.io.decode_raw(tf.reshape(features[PIXELS], [-1]), tf.uint8, fixed_length=spec.height * spec.width * spec.channels)
    return tf.reshape(raw, [-1, spec.height, spec.width, spec.channels])


def normalise(pixels: tf.Tensor, features: dict[str, tf.Tensor]) -> tf.Tensor:
    """Returns (pixels - mean) / std as float32 [N, height, width, channels], with PIXEL_MEAN and PIXEL_STD, each [N] or [N, 1]."""
    mean, std = (tf.reshape(features[name], [-1, 1, 1, 1]) for name in (PIXEL_MEAN, PIXEL_STD))
    return (tf.cast(pixels, tf.float32) - mean) / std
