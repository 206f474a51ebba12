"""How a model is fitted, in numbers. Keras alone: what fits on another backend than TensorFlow takes them as well."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import keras
from keras import ops

# The number of passes over a training split, where the configuration has none: 8 over 20,000 pictures, more over fewer. The number of steps
# grows as the number of pictures to the power of 0.4. docs/recipe.md has what it was chosen by.
_PASSES: Final = 8
_PASSES_OVER: Final = 20_000
_EXPONENT: Final = 0.6
_FEWEST_PASSES, _MOST_PASSES = 3, 400
# An epoch of fewer steps is not worth an evaluation and a checkpoint.
_EPOCH_STEPS: Final = 150


@dataclass(frozen=True)
class Hyperparameters:
    """How to fit; the `trainer` section of the configuration.

    `epochs` are passes over the training split, 0 for as many as suit its size: see `for_count`. `batch_size` is that of all replicas
    together, `learning_rate` is the highest of the schedule, `warmup` is the share of all steps in which it rises, `label_smoothing` is
    the share of a label that is spread over all classes, `shift` is pixels, `patience` is epochs without a lower cross-entropy on the eval
    split, None for a fit that never stops early. `warm_start` holds those that are others where a fit goes on from the model in production.
    `max_minutes` is how long the epochs may take, None for as long as they take; `passes` are those of an epoch.
    """

    preset: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    label_smoothing: float
    shift: int
    patience: int | None
    precision: str
    strategy: str
    seed: int
    warm_start: Mapping[str, Any] | None = None
    max_minutes: float | None = None
    passes: int = 1

    @property
    def warm(self) -> "Hyperparameters":
        """Those of a fit that goes on from the model in production."""
        return replace(self, **{name: value for name, value in (self.warm_start or {}).items() if value is not None})

    def for_count(self, count: int) -> "Hyperparameters":
        """Returns those of a fit to `count` pictures: the number of epochs, and of passes in each, is set.

        Where the configuration has a number of epochs, each is one pass. Else the passes over few pictures are taken together, so that
        an epoch has steps enough to be judged after.
        """
        if self.epochs:
            return self
        passes = min(max(_PASSES * (_PASSES_OVER / count) ** _EXPONENT, _FEWEST_PASSES), _MOST_PASSES)
        an_epoch = min(round(passes), -(-_EPOCH_STEPS * self.batch_size // count))
        return replace(self, epochs=round(passes / an_epoch), passes=an_epoch)

    def epoch_steps(self, count: int) -> int:
        """Returns the number of steps of an epoch over `count` pictures."""
        return -(-self.passes * count // self.batch_size)


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """The rate by step: rising to the highest, then along a cosine to 0.

    After Loshchilov and Hutter, "SGDR" (2017), without restarts; the warm-up after Goyal et al., "Accurate, Large Minibatch SGD"
    (2017). Its length can be set while the fit goes on, which `keras.optimizers.schedules.CosineDecay` cannot.

    Attributes:
      steps: float32 [], how many there are in all.
    """

    def __init__(self, highest: float, warmup: float, steps: int):
        """Args:
        highest: the rate after the warm-up.
        warmup: the share of the steps in which the rate rises.
        steps: how many there are in all.
        """
        self._highest = highest
        self._warmup = warmup
        self.steps = keras.Variable(float(steps), dtype="float32", trainable=False, name="steps")

    def __call__(self, step: Any) -> Any:
        """Returns the rate of a step, float32 []; steps count from 0."""
        step, steps = ops.cast(step, "float32"), ops.convert_to_tensor(self.steps)
        warmup = ops.round(self._warmup * steps)
        fallen = ops.clip((step - warmup) / ops.maximum(steps - warmup, 1.0), 0.0, 1.0)
        cosine = 0.5 * (1.0 + ops.cos(math.pi * fallen))
        return self._highest * ops.where(step < warmup, step / ops.maximum(warmup, 1.0), cosine)

    def get_config(self) -> dict[str, Any]:
        """As Keras has it."""
        return {"highest": self._highest, "warmup": self._warmup, "steps": int(self.steps.numpy())}


def learning_rate_schedule(parameters: Hyperparameters, count: int) -> WarmupCosine:
    """Returns the rate by step for a training split of `count` records."""
    return WarmupCosine(parameters.learning_rate, parameters.warmup, parameters.epochs * parameters.epoch_steps(count))
