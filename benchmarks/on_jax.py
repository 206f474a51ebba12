"""The Trainer's model, loss and optimizer on Keras' JAX backend, with many steps per dispatch and the pictures on the device.

Unlike in the Trainer, the weight of the CTC loss does not fall during a fit.
"""

from functools import partial
from typing import Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import keras
import numpy as np
import numpy.typing as npt

from benchmarks.in_memory import Split, shifted
from components.data.captcha_spec import CaptchaSpec
from components.training.hyperparameters import Hyperparameters
from components.training.model import PRESETS, build_model, captcha_loss, with_column_loss
from components.training.optimizer import Muon

Values: TypeAlias = list[jax.Array]


class Pictures(NamedTuple):
    """A split on the device.

    Attributes:
      pixels: uint8 [N, height, width, channels].
      labels: int32 [N, max_length].
    """

    pixels: jax.Array
    labels: jax.Array


class Measures(NamedTuple):
    """Mean and standard deviation, float32 [], of all pixel values of the training split, as Transform computes them."""

    mean: jax.Array
    std: jax.Array


class State(NamedTuple):
    """All that a step changes: the weights, the moving averages and dropout states, and the optimizer's variables."""

    weights: Values
    others: Values
    optimizer: Values


def to_device(split: Split) -> Pictures:
    """Copies a split to the device."""
    return Pictures(jnp.asarray(split.pixels), jnp.asarray(split.labels))


@jax.jit
def measure(pixels: jax.Array) -> Measures:
    """Returns mean and standard deviation of pixels, uint8 [N, height, width, channels]."""
    # The mean of the means per picture: a sum over all pixels would be too large for float32.
    values = pixels.astype(jnp.float32)
    mean, square = (jnp.mean(jnp.mean(power, axis=(1, 2, 3))) for power in (values, values * values))
    return Measures(mean, jnp.sqrt(jnp.maximum(square - mean * mean, 1.0)))


class Learner:
    """The computation of a step. It holds no state: each step takes a State and returns the next one.

    The learning rate is an argument of each step, so that fits of every length and seed share one compiled program.

    Args:
      spec: the image size, and the number and size of the heads.
      parameters: hyperparameters of the Trainer. The caller handles the batch size and the schedule.
      dtype: see `build_model`.
    """

    def __init__(self, spec: CaptchaSpec, parameters: Hyperparameters, dtype: str):
        self._build = partial(build_model, spec, PRESETS[parameters.preset], dtype)
        self.model = with_column_loss(self._build())
        self.model.compile(loss=captcha_loss(parameters.label_smoothing))
        self._shift = parameters.shift
        self._optimizer = Muon(0.0)
        self._optimizer.build(self.model.trainable_variables)
        self._rate: Final = [variable.name for variable in self._optimizer.variables].index("learning_rate")
        self.steps = jax.jit(self._steps, donate_argnums=0)
        self.read = jax.jit(self._read)

    def start(self, seed: int) -> State:
        """Returns the state before the first step."""
        keras.utils.set_random_seed(seed)
        model = self._build()
        # Copies, because each step reuses the memory of its state for the next state.
        parts = (model.trainable_variables, model.non_trainable_variables, self._optimizer.variables)
        return State(*([jnp.array(variable.value, copy=True) for variable in part] for part in parts))

    def _steps(
        self, state: State, pictures: Pictures, measures: Measures, order: jax.Array, rates: jax.Array, key: jax.Array
    ) -> tuple[State, jax.Array]:
        """Runs one step for each row of `order`. Returns the new state, and the loss of each step, float32 [steps].

        Args:
          state: consumed.
          pictures: the training pictures.
          measures: mean and standard deviation of all of them.
          order: int32 [steps, batch], indices of the pictures of each batch.
          rates: float32 [steps], the learning rates.
          key: random key of the shifts.
        """

        def step(state: State, now: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            order, rate, key = now
            pixels, labels = pictures.pixels[order], pictures.labels[order]
            offsets = jax.random.randint(key, (2, len(order), 1), -self._shift, self._shift + 1)
            images = _normalised(shifted(pixels, offsets, self._shift), measures)

            def loss(weights: Values) -> tuple[jax.Array, Values]:
                outputs, others = self.model.stateless_call(weights, state.others, images, training=True)
                return self.model.compute_loss(y=labels, y_pred=outputs), others

            (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(state.weights)
            optimizer = list(state.optimizer)
            optimizer[self._rate] = rate
            weights, optimizer = self._optimizer.stateless_apply(optimizer, gradients, state.weights)
            return State(weights, others, optimizer), value

        return jax.lax.scan(step, state, (order, rates, jax.random.split(key, len(order))))

    def _read(self, state: State, pixels: jax.Array, measures: Measures, order: jax.Array) -> jax.Array:
        """Returns the probabilities, float32 [batches, batch, max_length, num_classes], of pictures by index, int32 [batches, batch]."""

        def read(order: jax.Array) -> jax.Array:
            outputs, _ = self.model.stateless_call(state.weights, state.others, _normalised(pixels[order], measures), training=False)
            logits, *_ = jax.tree.leaves(outputs)
            return jax.nn.softmax(logits)

        return jax.lax.map(read, order)

    def read_all(self, state: State, pixels: jax.Array, measures: Measures, batch: int = 1024) -> npt.NDArray[np.float32]:
        """Returns the probabilities, float32 [N, max_length, num_classes], of all pictures in order."""
        count = len(pixels)
        # The first pictures fill up the last batch.
        order = np.arange(-(-count // batch) * batch, dtype=np.int32) % count
        found = np.asarray(self.read(state, pixels, measures, order.reshape(-1, batch)))
        return found.reshape(-1, *found.shape[2:])[:count]


def _normalised(pixels: jax.Array, measures: Measures) -> jax.Array:
    return (pixels.astype(jnp.float32) - measures.mean) / measures.std
