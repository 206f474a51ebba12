"""Has a model's confidence mean what it says: 0.9 for what is right nine times out of ten."""

from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

# A few hundred pictures that are all read right would ask for a temperature of 0.
_LOG_TEMPERATURES: Final = (-2.0, 2.0)
_STEPS: Final = 16  # as far apart as these, the lowest cross-entropy is less than a hundredth above that of `temperature`


def calibrate(model: keras.Model, batches: tf.data.Dataset) -> float:
    """Divides the logits of a model by the temperature that suits these pictures best, and returns it.

    Label smoothing leaves a model much less sure than it is right. The heads are linear, so that their weights take the division
    up: what the model reads, and how long it takes, stays the same.

    Args:
      model: from `build_model`; its heads are changed.
      batches: pictures that it was not trained on, as `evaluation_batches` gives them.
    """
    parts = [(model.predict_on_batch(images), labels.numpy()) for images, labels in batches]
    logits, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    divisor = temperature(logits, labels)
    for layer in model.layers:
        if layer.name.startswith("head"):
            layer.set_weights([weight / divisor for weight in layer.get_weights()])
    return divisor


def temperature(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Returns the temperature of the least cross-entropy (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Args:
      logits: [N, max_length, num_classes].
      labels: class ids [N, max_length].
    """

    def cross_entropy(log_temperature: float) -> float:
        scores = log_softmax(logits / np.exp(log_temperature), axis=-1)
        return -float(np.take_along_axis(scores, labels[..., np.newaxis], axis=-1).mean())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=_LOG_TEMPERATURES, method="bounded").x))


class CalibratedCrossEntropy(keras.metrics.Metric):
    """Cross-entropy of labels [N, max_length] and logits [N, max_length, num_classes] at the temperature that gives the lowest.

    It is that of the model after `calibrate`. As they come, the logits of a fit with label smoothing are far less sure than they are
    right: by their cross-entropy a fit without it would look better whatever it reads.
    """

    NAME: Final = "cross_entropy"

    def __init__(self) -> None:
        super().__init__(name=self.NAME)
        self._temperatures = np.exp(np.linspace(*_LOG_TEMPERATURES, _STEPS + 1)).tolist()
        self._totals = self.add_variable((len(self._temperatures),), "zeros", name="totals")
        self._count = self.add_variable((), "zeros", name="count")

    def update_state(self, labels: keras.KerasTensor, logits: keras.KerasTensor, sample_weight: Any = None) -> None:
        """Adds a batch. Samples have no weights here."""
        del sample_weight
        labels, logits = ops.cast(labels, "int32"), ops.cast(logits, "float32")
        of_labels = ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        # One temperature after another: all at once take as many times the memory.
        totals = [ops.sum(ops.logsumexp(logits / divisor, axis=-1) - of_labels / divisor) for divisor in self._temperatures]
        self._totals.assign_add(ops.stack(totals))
        self._count.assign_add(ops.cast(ops.size(labels), "float32"))

    def result(self) -> keras.KerasTensor:
        """Returns the lowest mean; 0 before there is any batch."""
        return ops.divide_no_nan(ops.min(self._totals), self._count)
