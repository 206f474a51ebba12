"""Moves pictures by a few pixels: `trainer.shift`."""

import tensorflow as tf

from components.training.hyperparameters import Hyperparameters


def augment(images: tf.Tensor, parameters: Hyperparameters, seed: tf.Tensor) -> tf.Tensor:
    """See components/training/augmentations/__init__.py."""
    return random_shift(images, parameters.shift, seed) if parameters.shift else images


def random_shift(images: tf.Tensor, shift: int, seed: tf.Tensor) -> tf.Tensor:
    """Moves each image vertically and horizontally by whole numbers of pixels, drawn for each image uniformly from [-shift, shift].

    Pixels that move in from outside mirror the pixels at the border.

    Args:
      images: [N, H, W, C]. H and W are at least `shift`.
      shift: the largest shift in pixels.
      seed: int64 [2].

    Returns:
      A tensor with the shape and dtype of `images`.
    """
    count, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    offsets = tf.random.stateless_uniform([2, count, 1], seed, -shift, shift + 1, tf.int32)
    rows = tf.gather(images, _mirrored(tf.range(height) + offsets[0], height), axis=1, batch_dims=1)
    return tf.gather(rows, _mirrored(tf.range(width) + offsets[1], width), axis=2, batch_dims=1)


def _mirrored(index: tf.Tensor, size: int) -> tf.Tensor:
    """Returns indices below `size`. An index beyond an edge is mirrored at the edge."""
    index = tf.where(index < 0, -1 - index, index)
    return tf.where(index >= size, 2 * size - 1 - index, index)
