"""A Pusher with increasing version numbers. Readers never see an incomplete version, and servers can load every version."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from absl import logging
from tfx import types
from tfx.components.pusher import executor
from tfx.dsl.components.base import base_component, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, component_spec, standard_artifacts
from tfx.types import standard_component_specs as specs
from tfx.utils import io_utils

from components.base.errors import CaptchaPipelineError
from components.base.features import GOLDEN_FILE, SPLITS
from components.evaluation.golden import GoldenReading
from components.serving.serving_dir import Withdrawn, check_not_withdrawn, push

# Loading takes seconds, but minutes for the largest model on a busy machine.
_TRIAL_SECONDS: Final = 600
_LAST_LINES: Final = 10


class AtomicPusherExecutor(executor.Executor):
    """TFX's executor with an atomic copy. It marks its artifact in the same way as TFX's Pusher."""

    def Do(
        self, input_dict: dict[str, list[types.Artifact]], output_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]
    ) -> None:
        """Pushes the model if it is blessed and no rollback has withdrawn it.

        Raises:
          CaptchaPipelineError: servers cannot use the model, or the serving folder cannot be written.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(artifact)
            return
        model_dir = self.GetModelPath(input_dict)
        try:
            check_not_withdrawn(model_dir, exec_properties["serving_dir"])  # first, to avoid a useless trial
            check_servable(model_dir, artifact_utils.get_split_uri(input_dict[specs.EXAMPLES_KEY], SPLITS[-1]))
            pushed = push(model_dir, exec_properties["serving_dir"], exec_properties["keep"], _golden_reading(input_dict))
        except Withdrawn as reason:
            logging.warning("%s", reason)
            self._MarkNotPushed(artifact)
            return
        io_utils.copy_dir(model_dir, artifact.uri)
        self._MarkPushed(artifact, pushed_destination=str(pushed.path), pushed_version=str(pushed.version))
        logging.info("Pushed version %d to %s.", pushed.version, pushed.path.parent)


def _golden_reading(input_dict: dict[str, list[types.Artifact]]) -> GoldenReading | None:
    """Returns how the model reads the golden set, as stored by the Evaluator with its blessing; None if there is no golden set."""
    path = os.path.join(artifact_utils.get_single_uri(input_dict[specs.MODEL_BLESSING_KEY]), GOLDEN_FILE)
    if not fileio.exists(path):
        return None
    with fileio.open(path) as file:
        return GoldenReading.model_validate_json(file.read())


def check_servable(model_dir: str, records: str, seconds: float = _TRIAL_SECONDS) -> None:
    """Uses a model as a server would: runs components/serving/server_trial.py in a separate process.

    Args:
      model_dir: the folder of the SavedModel.
      records: the folder of a split of good pictures.
      seconds: the time limit.

    Raises:
      CaptchaPipelineError: the model cannot be loaded in this way, does not answer in time, or gives wrong answers.
    """
    program = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "components.serving.server_trial",
        os.path.abspath(model_dir),
        os.path.abspath(records),
    ]
    # On the CPU, because another process may use the memory of the GPU.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    try:
        done = subprocess.run(  # noqa: S603  # this Python interpreter
            program,
            # Otherwise `-m` would look for modules in the folder where the command was run.
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        how, said = f"failed (exit code {done.returncode})", done.stdout or done.stderr
        if done.returncode == 0:
            return
    except subprocess.TimeoutExpired as expired:
        how, said = f"did not answer within {seconds:g} seconds", expired.stderr or b""
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()][-_LAST_LINES:]
    raise CaptchaPipelineError(
        f"The model was not pushed: a trial, which loads it as TensorFlow Serving does, {how}. The serving folder is unchanged.\n"
        + "".join(f"  {line}\n" for line in lines)
        + "If memory or time ran out, run again: the run resumes at this step. Otherwise the export is faulty: check recent changes of "
        "components/serving/signatures.py, and of the release of TensorFlow or Keras."
    )


class AtomicPusherSpec(component_spec.ComponentSpec):
    PARAMETERS = {  # noqa: RUF012
        "serving_dir": component_spec.ExecutionParameter(type=str),
        "keep": component_spec.ExecutionParameter(type=int),
    }
    INPUTS = {  # noqa: RUF012
        specs.EXAMPLES_KEY: component_spec.ChannelParameter(type=standard_artifacts.Examples),
        specs.MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.Model),
        specs.MODEL_BLESSING_KEY: component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {specs.PUSHED_MODEL_KEY: component_spec.ChannelParameter(type=standard_artifacts.PushedModel)}  # noqa: RUF012
    TYPE_ANNOTATION = specs.PusherSpec.TYPE_ANNOTATION


class AtomicPusher(base_component.BaseComponent):
    """Pushes `model` to the folder `serving_dir` if `model_blessing` blesses it. The folder keeps `keep` versions.

    The step fails if the model, loaded as in a server, cannot read pictures of the test split of `examples`. Then it pushes nothing.
    """

    SPEC_CLASS = AtomicPusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(AtomicPusherExecutor)

    def __init__(
        self, examples: types.BaseChannel, model: types.BaseChannel, model_blessing: types.BaseChannel, serving_dir: str, keep: int
    ):
        super().__init__(
            AtomicPusherSpec(
                examples=examples,
                model=model,
                model_blessing=model_blessing,
                serving_dir=serving_dir,
                keep=keep,
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )
