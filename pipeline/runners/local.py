"""Runs the graph on this machine, one run at a time, and reports its steps."""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import yaml
from tfx.dsl.compiler.constants import PIPELINE_RUN_ID_PARAMETER_NAME
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.orchestration import metadata, pipeline
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.portable.runtime_parameter_utils import substitute_runtime_parameter

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.files import locked, write_whole
from components.serving import serving_dir
from components.training.hyperparameters import Hyperparameters
from pipeline.config.config import Config
from pipeline.config.engines import LOCAL
from pipeline.graph import RunParameters, create_pipeline, create_tuning_pipeline
from pipeline.logs import log_to
from pipeline.runners.beam.engine_check import reason_of
from pipeline.runs import history
from pipeline.runs.inputs import RunInputs, run_inputs

OnStep = Callable[[str, Literal["running", "finished"]], None]


def run(config: Config, on_step: OnStep, trigger: str = "by hand", attempt: int = 0) -> history.RunRecord:
    """Runs the pipeline. Steps with unchanged inputs, configuration and code reuse the results of an earlier run.

    Args:
      config: the configuration.
      on_step: called with the name of each step and "running" when it starts, "finished" when it has finished.
      trigger: why the run is started, for the record.
      attempt: see `pipeline.runs.inputs.RunInputs`.

    Returns:
      The record of the run in ML Metadata.

    Raises:
      CaptchaPipelineError: another run is in progress, a step found a problem that the user must fix, or a disk cannot be written.
    """
    serving_dir.check(config.serving_dir)
    return _run(config, partial(create_pipeline, parameters=RunParameters.of(config)), on_step, trigger, attempt)


def tune(config: Config, trials: int, epochs: int, on_step: OnStep) -> list[dict[str, float]]:
    """Searches for better hyperparameters than the configuration's, and saves the best where `load_config` finds them.

    Args:
      config: the configuration as the user wrote it, see `load_config`. Values that it sets are not searched.
      trials: the number of fits.
      epochs: the epochs of each fit; 0 for as many as suit the number of pictures.
      on_step: as for `run`.

    Returns:
      The trials, the best first: the value of each hyperparameter, and `score`, the cross-entropy on the eval split that ranks the
      trials, see `components.training.tuner_fn.tuner_fn`.

    Raises:
      CaptchaPipelineError: as `run`.
    """
    record = _run(config, partial(create_tuning_pipeline, trials=trials, epochs=epochs), on_step, history.SEARCH, 0)
    results = Path(record.artifact_uri("Tuner", "tuner_results") or "") / "tuner_results.json"
    found = sorted(json.loads(results.read_text(encoding="utf-8")), key=lambda trial: trial["score"])
    best = {name: value for name, value in found[0].items() if name in Hyperparameters.model_fields}
    length = f" of {epochs} epochs" if epochs else ""
    text = f"# Written by captcha-pipeline tune: the best of {trials} trials{length}, cross-entropy on eval {found[0]['score']:.4f}.\n"
    write_whole(Path(config.tuned_path), text + yaml.safe_dump({"trainer": best}))
    return found


def _run(
    config: Config, create: Callable[[Config, RunInputs], pipeline.Pipeline], on_step: OnStep, trigger: str, attempt: int
) -> history.RunRecord:
    folder = Path(config.metadata_path).parent
    busy = f"Another run (process {{}}) is in progress in {folder}. Wait for its end, or choose another folder with --set root=FOLDER."
    with writing_in(config.root, config.serving_dir), locked(Path(config.run_lock), busy):
        history.mark_interrupted(config.metadata_path)
        inputs = run_inputs(config, attempt)
        graph = create(config, inputs)
        engines = {step.id: config.beam.of(step.id) for step in graph.components if isinstance(step, BaseBeamComponent)}
        elsewhere = {step: str(engine) for step, engine in engines.items() if engine.runner != LOCAL}
        run_id = datetime.now().isoformat()  # the names that TFX gives
        begin = partial(history.begin, config.metadata_path, run_id, trigger, elsewhere, config.as_yaml(), inputs.digest)
        graph.metadata_connection_config = metadata.sqlite_metadata_connection_config(config.metadata_path)
        log_to(log_path(config))
        with _telling(on_step):
            try:
                _Runner(run_id, begin).run(graph)
            except BaseException as error:
                history.mark_interrupted(config.metadata_path)
                # Beam's message for a failed job on any remote engine.
                if failed := re.match(r"Pipeline \S+ failed in state (\w+)", str(error)):
                    raise CaptchaPipelineError(
                        f"A job on another engine ended in state {failed.group(1)}: {reason_of(str(error))}. The full output is in "
                        f"{log_path(config)}. The next run resumes after the last completed step."
                    ) from None
                raise
        record = history.latest_run(config.metadata_path)
        assert record is not None, "the run that has just ended is on record"
        return record


def log_path(config: Config) -> Path:
    """Returns the path of the log file that gets everything that the libraries log during a run."""
    return Path(config.root) / config.name / "run.log"


class _Runner(LocalDagRunner):
    """TFX's runner, with a given name for the run. It calls `begin` before TFX records the run."""

    def __init__(self, run_id: str, begin: Callable[[], None]):
        super().__init__()
        self._run_id = run_id
        self._begin = begin

    def run_with_ir(self, pipeline: Any, run_options: Any = None) -> None:
        substitute_runtime_parameter(pipeline, {PIPELINE_RUN_ID_PARAMETER_NAME: self._run_id})
        self._begin()
        super().run_with_ir(pipeline, run_options)


class _StepListener(logging.Handler):
    """Calls `on_step` for two log records of LocalDagRunner, which has no callbacks but logs the start and the end of each step."""

    def __init__(self, on_step: OnStep):
        super().__init__(logging.INFO)
        self._on_step = on_step

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "Component %s is running.":
            self._on_step(str(record.args[0]), "running")  # type: ignore[index]
        elif record.msg == "Component %s is finished.":
            self._on_step(str(record.args[0]), "finished")  # type: ignore[index]


@contextlib.contextmanager
def _telling(on_step: OnStep) -> Iterator[None]:
    listener = _StepListener(on_step)
    logging.getLogger().addHandler(listener)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(listener)
