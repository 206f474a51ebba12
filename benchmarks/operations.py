"""Counts the floating-point operations of a model by its layers. A multiplication and an addition are two operations."""

import math

import keras

from components.training.counting import Glimpses


def reading_operations(model: keras.Model) -> int:
    """Returns the operations of one picture in the convolutions and fully connected layers. All else is less than a hundredth."""
    return sum(map(_operations, model.layers))


def training_operations(model: keras.Model) -> int:
    """Returns the operations of one picture in a training step: forward, and twice as many for the gradients by input and by weights.

    The gradient by the picture itself is not computed. The optimizer's operations are excluded: they are per step, not per picture.
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
