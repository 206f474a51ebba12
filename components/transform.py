"""TFX's Transform with four changes: no compression, no temporary files left, no failure when a worker is lost, and a window property.

The property WINDOW of its examples identifies the spans that they come from.

Beam gzips at zlib's default level, which takes longer than decoding the pictures: 120 of 270 microseconds for a picture of 100x30.
The files are still gzipped TFRecords, because the Trainer reads these; zlib stores the records in them uncompressed.
"""

import zlib
from collections.abc import Callable
from typing import Any
from unittest import mock

from apache_beam.utils import shared
from tfx import components
from tfx.components.transform import executor
from tfx.dsl.components.base import executor_spec
from tfx.types import standard_component_specs as specs

from components.base.features import WINDOW
from components.data.beam_output import remove_abandoned


class OwnGraph(shared.Shared):
    """Replaces Beam's `Shared`, with which TFT shares a graph among the threads of a worker: each thread gets its own graph.

    TFT's analysis writes graphs to folders with random names. When an engine loses a worker, it makes the lost graph again in another
    folder. A worker that shares graphs still has the first graph. TFT then fails the job, however often the work is retried.
    """

    def acquire(self, constructor_fn: Callable[[], Any], tag: Any = None) -> Any:
        """Returns the result of `constructor_fn`."""
        del tag
        return constructor_fn()


class Executor(executor.Executor):
    """TFX's executor with the changes listed in the module docstring."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Runs TFX's executor. Workers in separate processes still compress, because Beam has no option for the level."""
        as_they_are = mock.patch.object(zlib, "Z_DEFAULT_COMPRESSION", zlib.Z_NO_COMPRESSION)
        with as_they_are, mock.patch.object(shared, "Shared", OwnGraph):
            super().Do(input_dict, output_dict, exec_properties)
        remove_abandoned(output_dict)
        (examples,) = input_dict[specs.EXAMPLES_KEY]
        (transformed,) = output_dict[specs.TRANSFORMED_EXAMPLES_KEY]
        transformed.set_string_custom_property(WINDOW, examples.get_string_custom_property(WINDOW))


class Transform(components.Transform):
    """See the module docstring. Arguments, inputs and outputs are those of TFX's Transform."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
