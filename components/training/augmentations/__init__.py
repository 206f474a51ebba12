"""Random changes to training pictures.

To add one, write a module here with a function like `shift.augment`, and list it in AUGMENTATIONS. If it has a setting, add that to
components/training/hyperparameters.py.
"""

from collections.abc import Callable
from typing import Final

import tensorflow as tf

from components.training.augmentations import shift
from components.training.hyperparameters import Hyperparameters

# From uint8 images [N, H, W, C], the hyperparameters and a seed, int64 [2], to images with the same shape and dtype.
Augmentation = Callable[[tf.Tensor, Hyperparameters, tf.Tensor], tf.Tensor]
AUGMENTATIONS: Final[tuple[Augmentation, ...]] = (shift.augment,)


def augment(images: tf.Tensor, parameters: Hyperparameters, seed: tf.Tensor) -> tf.Tensor:
    """Applies all augmentations, each with its own seed.

    Args:
      images: uint8 [N, H, W, C].
      parameters: their settings.
      seed: int64 [2]. The same seed gives the same changes.

    Returns:
      A tensor with the shape and dtype of `images`.
    """
    for number, change in enumerate(AUGMENTATIONS):
        images = change(images, parameters, seed + tf.constant([0, number], seed.dtype))
    return images
