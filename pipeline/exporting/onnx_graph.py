"""Builds the ONNX graph of a model, layer by layer, from plain operations of opset 17.

Batch normalisations become part of the layer before them. The graph also normalises the pixels, and ends with the softmax of the heads. The
temperature is already in the weights of the heads: see components/training/calibration.py.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from components.base.features import PIXELS, PROBABILITIES

OPSET: Final = 17
# Nodes that need exact numbers: the last layer, and what counts and chooses the characters. They take little time.
EXACT: Final = ("column_head", "count", "keys", "queries", "glimpses", "head", "heads")
_IR_VERSION: Final = 8  # the format of opset 17's own time, for older readers
_BATCH: Final = "N"

# Layers that a convolution or a fully connected layer takes with it: see `_tail`.
_TAIL: Final = (keras.layers.MaxPooling2D, keras.layers.BatchNormalization, keras.layers.ReLU)
_NCHW: Final = (0, 3, 1, 2)
_NHWC: Final = (0, 2, 3, 1)


def onnx_graph(model: keras.Model, mean: float, std: float) -> onnx.ModelProto:
    """Returns the graph of a model.

    Input: PIXELS uint8 [N, height, width, channels]. Output: PROBABILITIES float32 [N, max_length, num_classes].
    The nodes have the names of their layers.

    Args:
      model: float32, from `components.training.model.build_model`.
      mean, std: of the pixel values, 0 to 255; the model gets (pixel - mean) / std.
    """
    _, height, width, channels = model.input.shape
    graph = _Graph()
    image = graph.add("Cast", PIXELS, name="image", to=TensorProto.FLOAT)
    image = graph.add("Sub", image, np.float32(mean), name="centred")
    logits = _Layers(graph, model).apply(graph.add("Div", image, np.float32(std), name="normalised"))
    graph.add("Softmax", logits, name=PROBABILITIES, axis=-1)
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, [_BATCH, height, width, channels])],
            [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [_BATCH, *model.output.shape[1:]])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="captcha-pipeline",
    )
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph:
    """The nodes so far, and their constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operation: str, *inputs: str | npt.ArrayLike, name: str, **attributes: Any) -> str:
        """Adds an operation, whose node and only output are called `name`. Inputs are names of outputs, or constants. Returns `name`."""
        names = [value if isinstance(value, str) else self._constant(value, f"{name}/{place}") for place, value in enumerate(inputs)]
        self.nodes.append(helper.make_node(operation, names, [name], name, **attributes))
        return name

    def _constant(self, value: npt.ArrayLike, name: str) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


class _Layers:
    """Adds the layers of a model to a graph.

    Keras' tensors are [N, h, w, C]. Between `_image` and `_columns` or `_flat`, those of the graph are [N, C, h, w], as ONNX convolves.
    """

    def __init__(self, graph: _Graph, model: keras.Model):
        self._graph, self._model = graph, model
        self._named = {layer.name: layer for layer in model.layers}

    def apply(self, image: str) -> str:
        """Adds all layers. Returns the logits, [N, max_length, num_classes], of normalised pixels, [N, height, width, channels]."""
        x, margin = self._image(image), (0, 0, 0, 0)
        layers = self._model.layers
        for place, layer in enumerate(layers):
            tail = list(itertools.takewhile(lambda it: isinstance(it, _TAIL), layers[place + 1 :]))
            if isinstance(layer, keras.layers.Conv2D):
                x = self._convolution(layer, tail, x, margin)
            elif layer.name == "margin":
                (top, bottom), (left, right) = layer.padding
                margin = (top, left, bottom, right)
            elif layer.name == "columns":
                return self._counted(self._columns(layer, x))
            elif isinstance(layer, keras.layers.Flatten):
                x = self._graph.add("Flatten", self._graph.add("Transpose", x, name="rows_first", perm=_NHWC), name=layer.name)
            elif isinstance(layer, keras.layers.Dense) and not layer.name.startswith("head"):
                x = self._dense(layer, tail, x)
        return self._direct(x)

    def _image(self, image: str) -> str:
        """Returns the channels first, and blocks of pixels as channels, if the model has patches."""
        add = self._graph.add
        if "patches" not in self._named:
            return add("Transpose", image, name="channels_first", perm=_NCHW)
        (top, bottom), (left, right) = self._named["even"].padding
        if any((top, bottom, left, right)):
            image = add("Pad", image, np.array([0, top, left, 0, 0, bottom, right, 0]), name="even")
        down, tall, across, _ = self._named["rows"].target_shape
        channels = self._model.input.shape[-1]
        wide = self._named["rows"].target_shape[-1] // channels
        blocks = add("Reshape", image, np.array([-1, down, tall, across, wide, channels]), name="rows")
        parts = add("Transpose", blocks, name="parts", perm=(0, 2, 4, 5, 1, 3))
        return add("Reshape", parts, np.array([-1, tall * wide * channels, down, across]), name="patches")

    def _convolution(self, layer: keras.layers.Conv2D, tail: Sequence[keras.layers.Layer], x: str, margin: Sequence[int]) -> str:
        """Adds a convolution, and the pooling, the batch normalisation and the ReLU after it."""
        pool, norm = (next((it for it in tail if isinstance(it, kind)), None) for kind in _TAIL[:2])
        scale, shift = _affine(norm, layer.filters)
        # A largest value stays the largest under a positive factor only.
        apart = pool is not None and norm is not None and tail.index(pool) < tail.index(norm) and bool((scale <= 0).any())
        kernel, bias = _weights(layer, *((np.ones_like(scale), np.zeros_like(shift)) if apart else (scale, shift)))
        if layer.padding == "same":
            rows, columns = (size - 1 for size in layer.kernel_size)
            margin = (rows // 2, columns // 2, rows - rows // 2, columns - columns // 2)
        add = self._graph.add
        x = add("Conv", x, kernel.transpose(3, 2, 0, 1), bias, name=layer.name, kernel_shape=layer.kernel_size, pads=margin)
        relu = any(isinstance(it, keras.layers.ReLU) for it in tail)
        if relu and not apart:
            # Also before a pooling that comes first, because a ReLU does not change the order of values.
            x = add("Relu", x, name=f"{layer.name}_relu")
        if pool is not None:
            x = self._pooling(pool, x)
        if apart:
            x = add("Mul", x, scale.astype(np.float32).reshape(1, -1, 1, 1), name=f"{layer.name}_scale")
            x = add("Add", x, shift.astype(np.float32).reshape(1, -1, 1, 1), name=f"{layer.name}_shift")
            x = add("Relu", x, name=f"{layer.name}_relu") if relu else x
        return x

    def _pooling(self, layer: keras.layers.MaxPooling2D, x: str) -> str:
        _, height, width, _ = layer.input.shape
        bottom, right = (-size % step for size, step in zip((height, width), layer.strides, strict=True))
        return self._graph.add(
            "MaxPool", x, name=layer.name, kernel_shape=layer.pool_size, strides=layer.strides, pads=(0, 0, bottom, right)
        )

    def _columns(self, layer: keras.layers.Reshape, x: str) -> str:
        """Returns [N, w, C] of a map of one row, [N, C, 1, w]."""
        width, channels = layer.target_shape
        return self._graph.add(
            "Transpose", self._graph.add("Reshape", x, np.array([-1, channels, width]), name="map"), name=layer.name, perm=(0, 2, 1)
        )

    def _counted(self, columns: str) -> str:
        """Adds the reading of the columns, Count, Glimpses and the head of all positions. Returns the logits."""
        add, glimpses = self._graph.add, self._named["glimpses"]
        width = self._named["columns"].target_shape[0]
        keys, queries, place, sharpness = (np.asarray(weight) for weight in glimpses.get_weights())

        softmax = add("Softmax", self._dense(self._named["column_head"], (), columns), name="column_softmax", axis=-1)
        read = add("Slice", softmax, np.array([0]), np.array([-1]), np.array([2]), name="read")
        # Of the column before; the first has none.
        before = add("Slice", read, np.array([0]), np.array([-1]), np.array([1]), name="all_but_last")
        before = add("Pad", before, np.array([0, 1, 0, 0, 0, 0]), name="before")
        begins = add("Mul", read, add("Sub", np.float32(1), before, name="not_before"), name="begins")
        begun = add("ReduceSum", begins, np.array([2]), name="begun", keepdims=0)
        # A product with this matrix is the sum up to the middle of each column.
        halves = np.triu(np.ones((width, width), np.float32)) - np.eye(width, dtype=np.float32) / 2
        count = add("Unsqueeze", add("MatMul", begun, halves, name="count"), np.array([2]), name="counts")

        look = add("Tanh", add("MatMul", columns, keys, name="keys"), name="look")
        seen = add("Add", add("MatMul", look, queries, name="queries"), place, name="seen")
        halfway = np.arange(queries.shape[1], dtype=np.float32) + np.float32(0.5)
        off = add("Sub", count, halfway, name="off")
        distance = add("Mul", add("Mul", off, off, name="off_squared"), sharpness, name="distance")
        weights = add("Softmax", add("Sub", seen, distance, name="scores"), name="weights", axis=1)
        seen_by = add("MatMul", add("Transpose", weights, name="positions", perm=(0, 2, 1)), columns, name="glimpses")
        return self._dense(self._named["head"], (), seen_by)

    def _direct(self, x: str) -> str:
        """Adds the heads of all positions as one layer. Returns the logits."""
        positions, classes = self._model.output.shape[1:]
        heads = [self._named[f"head_{position}"] for position in range(1, positions + 1)]
        kernel = np.concatenate([np.asarray(head.kernel) for head in heads], axis=1)
        x = self._graph.add("MatMul", x, kernel, name="heads")
        x = self._graph.add("Add", x, np.concatenate([np.asarray(head.bias) for head in heads]), name="heads_bias")
        return self._graph.add("Reshape", x, np.array([-1, positions, classes]), name="logits")

    def _dense(self, layer: keras.layers.Dense, tail: Sequence[keras.layers.Layer], x: str) -> str:
        """Adds a fully connected layer, and the batch normalisation and the ReLU after it."""
        norm = next((it for it in tail if isinstance(it, keras.layers.BatchNormalization)), None)
        kernel, bias = _weights(layer, *_affine(norm, layer.units))
        x = self._graph.add("Add", self._graph.add("MatMul", x, kernel, name=layer.name), bias, name=f"{layer.name}_bias")
        relu = any(isinstance(it, keras.layers.ReLU) for it in tail)
        return self._graph.add("Relu", x, name=f"{layer.name}_relu") if relu else x


def _affine(norm: keras.layers.BatchNormalization | None, size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns the factor and the summand, float64 [size], of a batch normalisation after training (Ioffe and Szegedy, 2015)."""
    if norm is None:
        return np.ones(size), np.zeros(size)
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _weights(
    layer: keras.layers.Layer, scale: npt.NDArray[np.float64], shift: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], ...]:
    """Returns kernel and bias, float32, of a layer whose outputs are multiplied by `scale` and then increased by `shift`."""
    kernel = np.asarray(layer.kernel, np.float64) * scale
    bias = shift + scale * np.asarray(layer.bias, np.float64) if layer.use_bias else shift
    return kernel.astype(np.float32), bias.astype(np.float32)
