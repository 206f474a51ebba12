"""TFX's Trainer with properties that belong to a run, not to the pipeline: the number of epochs, the attempt, and the recipe of the model.

Parameters of a compiled pipeline are whole properties of a step. They cannot be a part of `custom_config`. This Trainer also has one more
input, the profiles of the spans.
"""

import json
import os
from typing import Any, Final

from tfx import components
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import BaseChannel, artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.types.component_spec import ChannelParameter
from tfx.types.standard_artifacts import ExampleStatistics
from tfx.utils import path_utils

from components.base.features import BASE_PROBLEM, FINGERPRINT, PROFILES_FILE, RECIPE, SPEC_FILE, WARM_START, WINDOW
from components.base.recipe import recipe

PROFILES: Final = "profiles"


class Executor(executor.GenericExecutor):
    """TFX's executor, which also passes the epochs, the seed, the recipe and the profiles to `run_fn` in `custom_config`."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Runs TFX's executor, then stores the recipe, the fingerprint and the warm start as properties of the model."""
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
        with fileio.open(os.path.join(artifact_utils.get_single_uri(input_dict[PROFILES]), PROFILES_FILE)) as file:
            profiles = json.loads(file.read())
        fn_args.custom_config |= {
            "profiles": profiles,
            "trainer": trainer | {"epochs": epochs or "auto", "seed": trainer["seed"] + attempt},
            "recipe": recipe(exec_properties["settings"], window, epochs, attempt),
        }
        return fn_args


class Trainer(components.Trainer):
    """See the module docstring. The other arguments, inputs and outputs are those of TFX's Trainer.

    Args:
      profiles: the profiles of the spans that CaptchaExampleGen has read.
      settings: for the recipe of the model, see `components.base.recipe.recipe`.
      epochs: passes over the training split; 0 derives the number from the size of the split.
      attempt: the number of earlier attempts with these inputs; each attempt starts from a different seed.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, *, profiles: BaseChannel, settings: str, epochs: int | RuntimeParameter, attempt: int, **arguments: Any):
        super().__init__(**arguments)
        # Added here because TFX's constructor does not accept them. TFX's udf_utils sets properties in the same way.
        self.spec.exec_properties.update(settings=settings, epochs=epochs, attempt=attempt)
        self.spec.INPUTS = {**self.spec.INPUTS, PROFILES: ChannelParameter(type=ExampleStatistics)}
        self.spec.inputs[PROFILES] = profiles
