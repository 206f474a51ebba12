"""Translates an ONNX graph into a program for the page of the HTML export: steps of known shapes, and their constants.

`page/network.js` runs it. The program has only the operations that `onnx_graph.py` uses, with what varies as attributes:

- `input`: name and shape [1, height, width, channels] of the pixels; `output`: the name of the last result.
- `steps`: in their order, each with `op`, `inputs` and `output` (names), `shape` of the output, and the attributes of its operation.
- `constants`: name, shape, and the place of the first number in `weights`, which has the numbers of all of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from components.base.errors import CaptchaPipelineError

Attributes = dict[str, Any]
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
    steps = [_step(node, shapes, constants) for node in graph.node]
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


def _step(node: onnx.NodeProto, shapes: Mapping[str, list[int]], constants: _Constants) -> dict[str, Any]:
    if node.op_type not in _OPERATIONS:
        known = ", ".join(sorted(_OPERATIONS))
        raise CaptchaPipelineError(f"The HTML export cannot run the operation {node.op_type} ({node.name}); it has {known}.")
    name, count, attributes_of = _OPERATIONS[node.op_type]
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rest = [constants[name].tolist() for name in node.input[count:]]
    rank = len(shapes.get(node.input[0], ()))
    attributes = attributes_of(given, rest, rank)
    return {"op": name, "inputs": list(node.input[:count]), "output": node.output[0], "shape": shapes[node.output[0]], **attributes}


def _slice(given: Attributes, rest: list[Any], rank: int) -> Attributes:
    starts, _, axes, *steps = rest
    if any(start < 0 for start in starts) or any(step != 1 for step in sum(steps, [])):
        raise ValueError("a Slice from the end, or with steps")
    return {"starts": [dict(zip(axes, starts, strict=True)).get(axis, 0) for axis in range(rank)]}


def _windows(given: Attributes, rest: list[Any], rank: int) -> Attributes:
    return {"kernel": given["kernel_shape"], "strides": given.get("strides", [1, 1]), "pads": given.get("pads", [0, 0, 0, 0])}


def _sum(given: Attributes, rest: list[Any], rank: int) -> Attributes:
    ((axis,),) = rest
    return {"axis": axis % rank}


def _nothing(given: Attributes, rest: list[Any], rank: int) -> Attributes:
    return {}


# By the operation of ONNX: the kernel of the page, the number of inputs that it gets as arrays, and what else it needs to know, from the
# attributes, the values of the other inputs, and the rank of the first input.
_OPERATIONS: Final[Mapping[str, tuple[str, int, Callable[[Attributes, list[Any], int], Attributes]]]] = MappingProxyType(
    {
        "Add": ("Add", 2, _nothing),
        "Cast": ("Reshape", 1, _nothing),  # the page has numbers of one type
        "Conv": ("Conv", 3, _windows),
        "Div": ("Div", 2, _nothing),
        "Flatten": ("Reshape", 1, _nothing),
        "MatMul": ("MatMul", 2, _nothing),
        "MaxPool": ("MaxPool", 1, _windows),
        "Mul": ("Mul", 2, _nothing),
        "Pad": ("Pad", 1, lambda given, rest, rank: {"pads": rest[0]}),
        "ReduceSum": ("ReduceSum", 1, _sum),
        "Relu": ("Relu", 1, _nothing),
        "Reshape": ("Reshape", 1, _nothing),
        "Slice": ("Slice", 1, _slice),
        "Softmax": ("Softmax", 1, lambda given, rest, rank: {"axis": given["axis"] % rank}),
        "Sub": ("Sub", 2, _nothing),
        "Tanh": ("Tanh", 1, _nothing),
        "Transpose": ("Transpose", 1, lambda given, rest, rank: {"perm": given["perm"]}),
        "Unsqueeze": ("Reshape", 1, _nothing),
    }
)
