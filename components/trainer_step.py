"""Trainer as TFX has it, but for three values that belong to a run, not to the pipeline.

A compiled pipeline's parameters are whole properties of a step: they cannot be a part of `custom_config`.
"""

from typing import Any

from tfx import components
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import executor_spec
from tfx.orchestration.data_types import RuntimeParameter


class Executor(executor.GenericExecutor):
    """TFX's executor, which gives the three to `run_fn` where it looks for them."""

    def _GetFnArgs(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> FnArgs:
        fn_args = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        trainer = fn_args.custom_config["trainer"]
        trainer |= {"epochs": exec_properties["epochs"], "seed": trainer["seed"] + exec_properties["attempt"]}
        fn_args.custom_config |= {"trainer": trainer, "fingerprint": exec_properties["fingerprint"]}
        return fn_args


class Trainer(components.Trainer):
    """See the module; the other arguments, inputs and outputs are those of TFX's Trainer.

    Args:
      epochs: passes over the training split.
      fingerprint: names the fit: its checkpoints, and the model.
      attempt: how often the same has been fitted before; each time from another seed.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, epochs: int | RuntimeParameter, fingerprint: str, attempt: int, **arguments: Any):
        super().__init__(**arguments)
        # As TFX itself adds what a constructor of its own does not know.
        self.spec.exec_properties.update(epochs=epochs, fingerprint=fingerprint, attempt=attempt)
