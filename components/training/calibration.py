"""Calibrates a model's confidence: nine in ten of the readings with a confidence of 0.9 are right."""

from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

# Bounds, because a model that reads all of a few hundred pictures right would get a temperature of 0.
_LOG_TEMPERATURES: Final = (-2.0, 2.0)
_STEPS: Final = 16  # at this spacing the lowest cross-entropy is less than a hundredth above that of `temperature`


def calibrate(model: keras.Model, batches: tf.data.Dataset) -> npt.NDArray[np.float32]:
    """Divides the logits of a model by the temperature that suits these pictures best.

    Label smoothing makes a model much less confident than it is accurate. The heads are linear, so their weights can be divided
    instead of the logits. The model's readings and its speed stay the same.

    Args:
      model: from `build_model`. The weights of its heads are changed.
      batches: pictures that the model was not trained on, from `evaluation_batches`.

    Returns:
      The model's logits of these pictures after calibration, float32 [N, max_length, num_classes].
    """
    parts = [(model.predict_on_batch(images), labels.numpy()) for images, labels in batches]
    logits, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    divisor = temperature(logits, labels)
    for layer in model.layers:
        if layer.name.startswith("head"):
            layer.set_weights([weight / divisor for weight in layer.get_weights()])
    return logits / np.float32(divisor)


def temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Returns the temperature with the lowest cross-entropy (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
      logits: float32 [N, max_length, num_classes].
      labels: int64 class ids [N, max_length].
    """

    def cross_entropy(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -float(np.take_along_axis(scores, labels[..., np.newaxis], axis=-1).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=_LOG_TEMPERATURES, method="bounded").x))


class CalibratedCrossEntropy(keras.metrics.Metric):
    """The cross-entropy of labels [N, max_length] and logits [N, max_length, num_classes] at the best temperature.

    This is the cross-entropy of the model after `calibrate`. Before calibration, a fit with label smoothing is far less confident than it
    is accurate. By its uncalibrated cross-entropy, a fit without label smoothing would look better whatever it reads.
    """

    NAME: Final = "cross_entropy"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)
        self._temperatures = np.exp(np.linspace(*_LOG_TEMPERATURES, _STEPS + 1)).tolist()
        self._totals = self.add_variable((len(self._temperatures),), "zeros", name="totals")
        self._count = self.add_variable((), "zeros", name="count")

    def update_state(self, labels: keras.KerasTensor, logits: keras.KerasTensor, sample_weight: Any = None) -> None:
        """Adds a batch. Ignores sample weights."""
        del sample_weight
        labels, logits = ops.cast(labels, "int32"), ops.cast(logits, "float32")
        of_labels = ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        # One temperature at a time, because all at once would multiply the memory by their number.
        totals = [ops.sum(ops.logsumexp(logits / divisor, axis=-1) - of_labels / divisor) for divisor in self._temperatures]
        self._totals.assign_add(ops.stack(totals))
        self._count.assign_add(ops.cast(ops.size(labels), "float32"))

    def result(self) -> keras.KerasTensor:
        """Returns the lowest mean cross-entropy, float32 []; 0 before the first batch."""
        return ops.divide_no_nan(ops.min(self._totals), self._count)
