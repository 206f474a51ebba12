"""Transform as TFX has it, but for four things: it does not compress what it writes, leaves nothing beside it, may lose a worker, and says
of its examples which spans they come from.

Beam gzips at zlib's default level, which takes longer than to decode the pictures: 120 of 270 microseconds a picture of 100x30.
The files stay gzipped TFRecords, as the Trainer reads them, in which zlib has stored the records as they are.
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
    """What TFT shares its graph by among the threads of a worker, but each gets one of its own.

    TFT's analysis writes graphs to folders with random names. When an engine loses a worker it makes what was lost anew, in another folder;
    a worker that shares has the graph of the first one still, and TFT ends the job over it, however often that is tried again.
    """

    def acquire(self, constructor_fn: Callable[[], Any], tag: Any = None) -> Any:
        """Returns what `constructor_fn` makes."""
        del tag
        return constructor_fn()


class Executor(executor.Executor):
    """Runs TFX's own executor."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """As TFX's. Workers in processes of their own do compress, since Beam has no option for the level."""
        as_they_are = mock.patch.object(zlib, "Z_DEFAULT_COMPRESSION", zlib.Z_NO_COMPRESSION)
        with as_they_are, mock.patch.object(shared, "Shared", OwnGraph):
            super().Do(input_dict, output_dict, exec_properties)
        remove_abandoned(output_dict)
        (examples,) = input_dict[specs.EXAMPLES_KEY]
        (transformed,) = output_dict[specs.TRANSFORMED_EXAMPLES_KEY]
        transformed.set_string_custom_property(WINDOW, examples.get_string_custom_property(WINDOW))


class Transform(components.Transform):
    """See the module; arguments, inputs and outputs are those of TFX's Transform."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
