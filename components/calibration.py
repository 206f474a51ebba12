"""Has a model's confidence mean what it says: 0.9 for what is right nine times out of ten."""

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

# A few hundred pictures that are all read right would ask for a temperature of 0.
_LOG_TEMPERATURES = (-2.0, 2.0)


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
