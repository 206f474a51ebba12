"""The learning rate by step. Uses only Keras, so that it is the same on a backend other than TensorFlow."""

import math
from typing import Any

import keras
from keras import ops

from components.training.hyperparameters import Hyperparameters


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises to its highest value, then falls along a cosine to 0.

    After Loshchilov and Hutter, "SGDR" (2017), without restarts; the warm-up after Goyal et al., "Accurate, Large Minibatch SGD"
    (2017). Unlike that of `keras.optimizers.schedules.CosineDecay`, its length can be changed during the fit.

    Attributes:
      steps: float32 [], the total number of steps.
    """

    def __init__(self, highest: float, warmup: float, steps: int):
        """Args:
        highest: the rate after the warm-up.
        warmup: the share of the steps during which the rate rises.
        steps: the total number of steps.
        """
        self._highest = highest
        self._warmup = warmup
        self.steps = keras.Variable(float(steps), dtype="float32", trainable=False, name="steps")

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, float32 []. Steps count from 0."""
        step, steps = ops.cast(step, "float32"), ops.convert_to_tensor(self.steps)
        warmup = ops.round(self._warmup * steps)
        return self._highest * ops.where(step < warmup, step / ops.maximum(warmup, 1.0), _cosine(step - warmup, steps - warmup))

    def remaining(self, step: Any) -> Any:
        """Returns a weight, float32 [], that falls along a cosine from 1 at the first step of the fit to 0 at its end."""
        return _cosine(ops.cast(step, "float32"), ops.convert_to_tensor(self.steps))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, as Keras requires."""
        return {"highest": self._highest, "warmup": self._warmup, "steps": int(self.steps.numpy())}


def _cosine(done: Any, total: Any) -> Any:
    return 0.5 * (1.0 + ops.cos(math.pi * ops.clip(done / ops.maximum(total, 1.0), 0.0, 1.0)))


def learning_rate_schedule(parameters: Hyperparameters, steps: int) -> WarmupCosine:
    """Returns the learning rate by step for a fit of `steps` steps."""
    return WarmupCosine(parameters.learning_rate, parameters.warmup, steps)
