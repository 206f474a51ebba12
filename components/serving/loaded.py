"""Loads a SavedModel as servers do.

TensorFlow Serving, TensorFlow for Java and other servers restore the variables by an operation in the graph. Python's own loader
restores them object by object, which hides errors that servers run into, and TensorFlow never frees all memory of a model that it has
loaded that way: each reload of a small model costs about 2 MB. A closed session frees all of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
      name: in the signature, such as "image".
      tensor: the name in the graph, such as "serving_default_image:0".
      dtype: TensorFlow's name, such as "DT_STRING".
      shape: -1 for sizes that the model does not fix.
    """

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a signature, sorted by name, and TensorFlow's name of its method."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    method: str


class LoadedModel:
    """A SavedModel in its own graph and session. Several threads may call it at the same time.

    Attributes:
      signatures: by name, without those that a server does not offer, such as the initialisation.
    """

    def __init__(self, directory: Path):
        """Loads the model.

        Raises:
          OSError, ValueError, tf.errors.OpError: the model cannot be loaded.
        """
        with tf.Graph().as_default() as graph:
            self._session = tf.compat.v1.Session(graph=graph)
            try:
                found = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(directory)).signature_def
            except BaseException:
                self._session.close()
                raise
            self.signatures = {name: _signature(definition) for name, definition in sorted(found.items()) if not name.startswith("__")}
            self._calls: Mapping[str, Callable[..., list[np.ndarray]]] = {
                name: self._session.make_callable([output.tensor for output in signature.outputs], [signature.inputs[0].tensor])
                for name, signature in self.signatures.items()
                if len(signature.inputs) == 1
            }

    def call(self, signature: str, values: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Calls a signature that has a single input, a batch of strings.

        Returns:
          Its outputs by name. Strings have the dtype object.

        Raises:
          ValueError: the model does not have the signature, or it does not have a single input.
          tf.errors.OpError: the model does not answer.
        """
        if signature not in self._calls:
            raise ValueError(f"The model has no signature {signature}.")
        batch = np.empty(len(values), object)  # np.array would drop zero bytes at the end of a string
        batch[:] = values
        return dict(zip((output.name for output in self.signatures[signature].outputs), self._calls[signature](batch), strict=True))

    def close(self) -> None:
        """Frees the memory. The model cannot be called afterwards."""
        self._session.close()


def _signature(definition: Any) -> Signature:
    return Signature(_tensors(definition.inputs), _tensors(definition.outputs), definition.method_name)


def _tensors(found: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            name,
            info.name,
            types_pb2.DataType.Name(info.dtype),
            tuple(dimension.size for dimension in info.tensor_shape.dim),
        )
        for name, info in sorted(found.items())
    )
