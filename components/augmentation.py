"""Training pictures, each time a little different: what keeps a model of few pictures from learning them by heart.

Another change of pictures is one more function, and a line in `augment`.
"""

import math
from typing import Final

import tensorflow as tf

# The largest changes at full strength. docs/recipe.md has what they were chosen by.
_ANGLE: Final = 4.0  # degrees
_SHEAR: Final = 0.15  # columns a row
_SCALE: Final = 0.1  # each way, of the width and of the height
_BRIGHTNESS: Final = 25.0  # of 255
_CONTRAST: Final = 0.25
_TINT: Final = 0.2  # of each channel
_BLUR: Final = 0.7  # of the way to the mean of 3 x 3 pixels
_NOISE: Final = 6.0  # standard deviation, of 255
_HOLE: Final = (0.15, 0.4)  # of the width and of the height
_HOLES: Final = 0.5  # of the pictures that have one


def augment(images: tf.Tensor, strength: float, shift: int, seed: tf.Tensor) -> tf.Tensor:
    """Changes each picture in its own way: turned, sheared, scaled and moved; lighter or darker; blurred; noisy; with a hole.

    The same seed gives the same changes.

    Args:
      images: uint8 [N, H, W, C].
      strength: 0 to 1, of all changes but the shift.
      shift: pixels by which a picture is moved at most, each way.
      seed: int64 [2].

    Returns:
      float32 [N, H, W, C], 0 to 255.
    """
    seeds = iter(tf.unstack(tf.random.experimental.stateless_split(seed, 6)))
    images = _moved(tf.cast(images, tf.float32), strength, shift, next(seeds))
    images = _blurred(images, strength, next(seeds))
    images = _coloured(images, strength, next(seeds))
    images = images + tf.random.stateless_normal(tf.shape(images), next(seeds)) * (_NOISE * strength)
    images = _with_holes(images, strength, next(seeds))
    return tf.clip_by_value(images, 0.0, 255.0)


def _uniform(images: tf.Tensor, kinds: int, seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [kinds, N], each number in [-1, 1)."""
    return tf.random.stateless_uniform([kinds, tf.shape(images)[0]], seed, -1.0, 1.0)


def _moved(images: tf.Tensor, strength: float, shift: int, seed: tf.Tensor) -> tf.Tensor:
    """Turns, shears, scales and moves. What comes in from outside is the border, mirrored."""
    height, width = images.shape[1:3]
    angle, shear, wider, taller, down, right = tf.unstack(_uniform(images, 6, seed))
    angle, shear = angle * (math.radians(_ANGLE) * strength), shear * (_SHEAR * strength)
    wider, taller = tf.exp(wider * (_SCALE * strength)), tf.exp(taller * (_SCALE * strength))
    # From a place in the new picture to the one in the old, around the middle.
    a, b = tf.cos(angle) / wider, (shear - tf.sin(angle)) / wider
    c, d = tf.sin(angle) / taller, tf.cos(angle) / taller
    x, y = (width - 1) / 2, (height - 1) / 2
    to_x = x - a * x - b * y + right * shift
    to_y = y - c * x - d * y + down * shift
    zeros = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, to_x, c, d, to_y, zeros, zeros], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _coloured(images: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and, of pictures in colour, the tint."""
    channels = images.shape[3]
    contrast, brightness, *tint = tf.unstack(_uniform(images, 2 + channels, seed))
    gain = tf.exp(contrast * (_CONTRAST * strength))[:, tf.newaxis, tf.newaxis, tf.newaxis]
    if channels > 1:
        gain *= tf.exp(tf.stack(tint, axis=1) * (_TINT * strength))[:, tf.newaxis, tf.newaxis]
    middle = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return middle + (images - middle) * gain + (brightness * (_BRIGHTNESS * strength))[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _blurred(images: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Goes a part of the way to the mean of the pixels around; half of the pictures stay as they are."""
    share = tf.maximum(_uniform(images, 1, seed)[0], 0.0) * (_BLUR * strength)
    return images + (tf.nn.avg_pool2d(images, 3, 1, "SAME") - images) * share[:, tf.newaxis, tf.newaxis, tf.newaxis]


def _with_holes(images: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Covers a rectangle with the mean colour (DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017)."""
    height, width = images.shape[1:3]
    x, y, wide, high, chance = tf.unstack((_uniform(images, 5, seed) + 1) / 2)

    def covered(centre: tf.Tensor, share: tf.Tensor, largest: float, size: int) -> tf.Tensor:
        """Returns bool [N, size]."""
        distance = tf.abs(tf.range(size, dtype=tf.float32) + 0.5 - centre[:, tf.newaxis] * size)
        return distance < share[:, tf.newaxis] * (largest * size / 2)

    has_hole = chance < _HOLES * strength
    rows, columns = covered(y, high, _HOLE[1], height), covered(x, wide, _HOLE[0], width)
    hole = has_hole[:, tf.newaxis, tf.newaxis] & rows[:, :, tf.newaxis] & columns[:, tf.newaxis, :]
    return tf.where(hole[..., tf.newaxis], tf.reduce_mean(images, axis=[1, 2], keepdims=True), images)
