"""How a model is fitted, in numbers. Keras alone: what fits on another backend than TensorFlow takes them as well."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras


@dataclass(frozen=True)
class Hyperparameters:
    """How to fit; the `trainer` section of the configuration.

    `epochs` are passes over the training split, `batch_size` is that of all replicas together, `learning_rate` is the highest of the
    schedule, `warmup` is the share of all steps in which it rises, `label_smoothing` is the share of a label that is spread over all
    classes, `shift` is pixels, `patience` is epochs without a lower cross-entropy on the eval split. `warm_start` holds
    those that are others where a fit goes on from the model in production.
    """

    preset: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup: float
    label_smoothing: float
    shift: int
    patience: int
    precision: str
    strategy: str
    seed: int
    warm_start: Mapping[str, Any] | None = None

    @property
    def warm(self) -> "Hyperparameters":
        """Those of a fit that goes on from the model in production."""
        return replace(self, **{name: value for name, value in (self.warm_start or {}).items() if value is not None})


def learning_rate_schedule(parameters: Hyperparameters, count: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate by step for a training split of `count` records: rising to the highest, then along a cosine to 0.

    After Loshchilov and Hutter, "SGDR" (2017), without restarts; the warm-up after Goyal et al., "Accurate, Large Minibatch SGD"
    (2017).
    """
    steps = parameters.epochs * -(-count // parameters.batch_size)
    warmup = round(parameters.warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(1, steps - warmup),
        warmup_target=parameters.learning_rate,
        warmup_steps=warmup,
    )
