"""Trainer as TFX has it, but for what belongs to a run and not to the pipeline: how long it fits, and what the model is made from.

A compiled pipeline's parameters are whole properties of a step: they cannot be a part of `custom_config`.
"""

import json
import os
from typing import Any

from tfx import components
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import path_utils

from components.base.features import BASE_PROBLEM, FINGERPRINT, RECIPE, SPEC_FILE, WARM_START, WINDOW
from components.base.recipe import recipe


class Executor(executor.GenericExecutor):
    """TFX's executor, which gives `run_fn` the epochs, the seed and the recipe where it looks for them."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """As TFX's; the properties of the model then say what it was made from, and whether from the model in production on."""
        super().Do(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(output_dict[specs.MODEL_KEY])
        with fileio.open(os.path.join(path_utils.serving_model_path(model.uri), "assets.extra", SPEC_FILE)) as file:
            about = json.loads(file.read())
        for name in (RECIPE, FINGERPRINT, BASE_PROBLEM):
            model.set_string_custom_property(name, about[name])
        model.set_int_custom_property(WARM_START, int(about[WARM_START]))

    def _GetFnArgs(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> FnArgs:
        fn_args = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        epochs, attempt = exec_properties["epochs"], exec_properties["attempt"]
        window = artifact_utils.get_single_instance(input_dict[specs.EXAMPLES_KEY]).get_string_custom_property(WINDOW)
        trainer = fn_args.custom_config["trainer"]
        fn_args.custom_config |= {
            "trainer": trainer | {"epochs": epochs or "auto", "seed": trainer["seed"] + attempt},
            "recipe": recipe(exec_properties["settings"], window, epochs, attempt),
        }
        return fn_args


class Trainer(components.Trainer):
    """See the module; the other arguments, inputs and outputs are those of TFX's Trainer.

    Args:
      settings: for the recipe of the model, see `components.base.recipe.recipe`.
      epochs: passes over the training split, 0 for as many as suit its size.
      attempt: how often the same has been fitted before; each time from another seed.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, settings: str, epochs: int | RuntimeParameter, attempt: int, **arguments: Any):
        super().__init__(**arguments)
        # As TFX itself adds what a constructor of its own does not know.
        self.spec.exec_properties.update(settings=settings, epochs=epochs, attempt=attempt)
