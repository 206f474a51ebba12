"""How many floating-point operations a model takes, counted by its layers: a multiplication and an addition are two."""

import math

import keras

from components.training.counting import Glimpses


def reading_operations(model: keras.Model) -> int:
    """Returns those of one picture's way through the convolutions and fully connected layers; all else is less than a hundredth."""
    return sum(map(_operations, model.layers))


def training_operations(model: keras.Model) -> int:
    """Returns those of one picture in a step: there, and twice as many back, for the gradients by the input and by the weights.

    Nothing asks for the gradient by the picture. The optimizer's own, which are a step's and not a picture's, are left out.
    """
    first = next(layer for layer in model.layers if _operations(layer))
    return 3 * reading_operations(model) - _operations(first)


def _operations(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.layers.Conv2D):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    if isinstance(layer, keras.layers.Dense):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    if isinstance(layer, Glimpses):
        width = layer.input[0].shape[1]
        _, positions, size = layer.output.shape
        keys, queries, *_ = layer.weights
        return 2 * width * (math.prod(keys.shape) + math.prod(queries.shape) + positions * size)
    return 0
