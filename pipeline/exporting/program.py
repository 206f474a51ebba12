"""Translates an ONNX graph into a program for the page of the HTML export: steps of known shapes, and their constants.

`page/network.js` runs it. The program has only the operations that `onnx_graph.py` uses, with what varies as attributes:

- `input`: name and shape [1, height, width, channels] of the pixels; `output`: the name of the last result.
- `steps`: in their order, each with `op`, `inputs` and `output` (names), `shape` of the output, and the attributes of its operation.
- `constants`: name, shape, and the place of the first number in `weights`, which has the numbers of all of them.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from components.base.errors import CaptchaPipelineError

_Constants = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Program:
    """A program, and float32 [n], the numbers of its constants."""

    content: dict[str, Any]
    weights: npt.NDArray[np.float32]


def program(model: onnx.ModelProto) -> Program:
    """Translates a graph for one picture at a time.

    Args:
      model: has one input, [N, height, width, channels], and one output.

    Raises:
      CaptchaPipelineError: the graph has an operation that the page does not know.
    """
    graph = _for_one_picture(model)
    shapes = {value.name: _shape(value) for value in (*graph.value_info, *graph.input, *graph.output)}
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    steps = _fused([_step(node, shapes, constants) for node in graph.node])
    used = {name for step in steps for name in step["inputs"] if name in constants}
    listed, numbers, start = [], [np.zeros(0, np.float32)], 0
    for name in sorted(used):
        listed.append({"name": name, "shape": list(constants[name].shape), "start": start})
        numbers.append(constants[name].astype(np.float32).ravel())
        start += constants[name].size
    content = {
        "input": {"name": graph.input[0].name, "shape": shapes[graph.input[0].name]},
        "output": graph.output[0].name,
        "steps": steps,
        "constants": listed,
    }
    return Program(content, np.concatenate(numbers))


def _for_one_picture(model: onnx.ModelProto) -> onnx.GraphProto:
    """Returns the graph with the shape of every value for one picture."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    del single.graph.value_info[:]
    for value in (*single.graph.input, *single.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return onnx.shape_inference.infer_shapes(single, strict_mode=True, data_prop=True).graph


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


class _Unknown(Exception):
    """The page cannot do this."""


def _step(node: onnx.NodeProto, shapes: Mapping[str, list[int]], constants: _Constants) -> dict[str, Any]:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    shape = shapes[node.output[0]]
    try:
        if node.op_type not in _OPERATIONS:
            raise _Unknown(f"only {', '.join(sorted(_OPERATIONS))}")
        kernel, count, attributes_of = _OPERATIONS[node.op_type]
        rest = [constants[name].tolist() for name in node.input[count:]]
        attributes = attributes_of(_Given(given, rest, len(shapes.get(node.input[0], ())), shape))
    except _Unknown as error:
        raise CaptchaPipelineError(f"The HTML export cannot run the operation {node.op_type} ({node.name}): {error}.") from None
    return {"op": kernel, "inputs": list(node.input[:count]), "output": node.output[0], "shape": shape, **attributes}


@dataclass(frozen=True)
class _Given:
    """What an operation is given besides arrays: attributes, values of further inputs, rank of the first input, shape of the output."""

    attributes: dict[str, Any]
    rest: list[Any]
    rank: int
    shape: list[int]

    @property
    def axis(self) -> int:
        return self.attributes["axis"] % self.rank


def _convolution(given: _Given) -> dict[str, Any]:
    pads = _windows(given, strides=[1, 1])["pads"]
    tall, wide = given.attributes["kernel_shape"]
    if wide != 3 or (tall != 3 and given.shape[2] != 1):
        raise _Unknown("only kernels of 3x3, or of the whole height and 3 columns")
    return {"pads": pads[:2]}


def _pooling(given: _Given) -> dict[str, Any]:
    windows = _windows(given, strides=given.attributes["kernel_shape"])
    if any(windows["pads"][:2]):
        raise _Unknown("only windows that start at the first pixel")
    return {"kernel": windows["kernel"]}


def _windows(given: _Given, strides: list[int]) -> dict[str, Any]:
    found = given.attributes
    plain = {"strides": strides, "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET", "ceil_mode": 0}
    if any(found.get(name, [1, 1] if name == "strides" else value) != value for name, value in plain.items()):
        raise _Unknown(f"only strides of {strides}, and neither groups, dilations nor automatic margins")
    return {"kernel": found["kernel_shape"], "pads": found.get("pads", [0, 0, 0, 0])}


def _slice(given: _Given) -> dict[str, Any]:
    starts, _, axes, *steps = given.rest
    if any(start < 0 for start in starts) or any(set(step) != {1} for step in steps):
        raise _Unknown("only from a place counted from the beginning, without steps")
    return {"starts": [dict(zip(axes, starts, strict=True)).get(axis, 0) for axis in range(given.rank)]}


def _sum(given: _Given) -> dict[str, Any]:
    ((axis,),) = given.rest
    return {"axis": axis % given.rank}


def _nothing(given: _Given) -> dict[str, Any]:
    return {}


# By the operation of ONNX: the kernel of the page, the number of inputs that it gets as arrays, and what else it needs to know.
_OPERATIONS: Final[Mapping[str, tuple[str, int, Callable[[_Given], dict[str, Any]]]]] = MappingProxyType(
    {
        "Add": ("Add", 2, _nothing),
        "Cast": ("Reshape", 1, _nothing),  # the page has numbers of one type
        "Conv": ("Conv", 3, _convolution),
        "Div": ("Div", 2, _nothing),
        "Flatten": ("Reshape", 1, _nothing),
        "MatMul": ("MatMul", 2, _nothing),
        "MaxPool": ("MaxPool", 1, _pooling),
        "Mul": ("Mul", 2, _nothing),
        "Pad": ("Pad", 1, lambda given: {"pads": given.rest[0]}),
        "ReduceSum": ("ReduceSum", 1, _sum),
        "Relu": ("Relu", 1, _nothing),
        "Reshape": ("Reshape", 1, _nothing),
        "Slice": ("Slice", 1, _slice),
        "Softmax": ("Softmax", 1, lambda given: {"axis": given.axis}),
        "Sub": ("Sub", 2, _nothing),
        "Tanh": ("Tanh", 1, _nothing),
        "Transpose": ("Transpose", 1, lambda given: {"perm": given.attributes["perm"]}),
        "Unsqueeze": ("Reshape", 1, _nothing),
    }
)


def _fused(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the steps with each ReLU as a part of the convolution whose output only it reads."""
    readers = Counter(name for step in steps for name in step["inputs"])
    found: list[dict[str, Any]] = []
    for step in steps:
        before = found[-1] if found else step
        if (before["op"], step["op"]) == ("Conv", "Relu") and step["inputs"] == [before["output"]] and readers[before["output"]] == 1:
            found[-1] = before | {"output": step["output"], "shape": step["shape"], "relu": True}
        else:
            found.append(step)
    return found
