"""Runs the graph on this machine, one run at a time, and tells what happened."""

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
from pipeline.runs.fingerprint import Surroundings, look_around

OnStep = Callable[[str, Literal["running", "finished"]], None]


def run(config: Config, on_step: OnStep, trigger: str = "by hand", attempt: int = 0) -> history.RunRecord:
    """Runs the pipeline; steps whose inputs, configuration and code are unchanged are reused from an earlier run.

    Args:
      config: what to run.
      on_step: told the name of each step when it starts and when it is finished.
      trigger: why, for the record.
      attempt: see `pipeline.runs.fingerprint.Surroundings`.

    Returns:
      What ML Metadata recorded of the run.

    Raises:
      CaptchaPipelineError: another run is under way, a step found something that the user must mend, or a disk cannot be written.
    """
    serving_dir.check(config.serving_dir)
    return _run(config, partial(create_pipeline, parameters=RunParameters.of(config)), on_step, trigger, attempt)


def tune(config: Config, trials: int, epochs: int, on_step: OnStep) -> list[dict[str, float]]:
    """Searches for better hyperparameters than the configuration's, and leaves the best where `load_config` finds them.

    Args:
      config: as the user wrote it, see `load_config`: what it sets is not searched.
      trials: fits.
      epochs: of each fit, 0 for as many as suit the number of pictures.
      on_step: as for `run`.

    Returns:
      The trials, the best first: the value of each hyperparameter, and `score`, the cross-entropy on the eval split that it is
      judged by, see `components.training.tuner_fn.tuner_fn`.

    Raises:
      CaptchaPipelineError: as `run`.
    """
    record = _run(config, partial(create_tuning_pipeline, trials=trials, epochs=epochs), on_step, history.SEARCH, 0)
    results = Path(record.artifact_uri("Tuner", "tuner_results") or "") / "tuner_results.json"
    found = sorted(json.loads(results.read_text(encoding="utf-8")), key=lambda trial: trial["score"])
    best = {name: value for name, value in found[0].items() if name in Hyperparameters.model_fields}
    length = f" of {epochs} epochs" if epochs else ""
    text = f"# By captcha-pipeline tune: the best of {trials} trials{length}, cross-entropy on eval {found[0]['score']:.4f}.\n"
    write_whole(Path(config.tuned_path), text + yaml.safe_dump({"trainer": best}))
    return found


def _run(
    config: Config, create: Callable[[Config, Surroundings], pipeline.Pipeline], on_step: OnStep, trigger: str, attempt: int
) -> history.RunRecord:
    folder = Path(config.metadata_path).parent
    busy = f"Another run (process {{}}) is at work in {folder}. Wait for it, or give this one another folder with --set root=…"
    with writing_in(config.root, config.serving_dir), locked(Path(config.run_lock), busy):
        history.mark_interrupted(config.metadata_path)
        graph = create(config, look_around(config, attempt))
        engines = {step.id: config.beam.of(step.id) for step in graph.components if isinstance(step, BaseBeamComponent)}
        elsewhere = {step: str(engine) for step, engine in engines.items() if engine.runner != LOCAL}
        run_id = datetime.now().isoformat()  # as TFX names them
        configuration = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        graph.metadata_connection_config = metadata.sqlite_metadata_connection_config(config.metadata_path)
        log_to(log_path(config))
        with _telling(on_step):
            try:
                _Runner(run_id, partial(history.begin, config.metadata_path, run_id, trigger, elsewhere, configuration)).run(graph)
            except BaseException as error:
                history.mark_interrupted(config.metadata_path)
                # Beam's words for any engine that is elsewhere.
                if failed := re.match(r"Pipeline \S+ failed in state (\w+)", str(error)):
                    raise CaptchaPipelineError(
                        f"A job on another engine ended as {failed.group(1)}: {reason_of(str(error))}. All that was said is in "
                        f"{log_path(config)}; the next run takes up after the last complete step."
                    ) from None
                raise
        record = history.latest_run(config.metadata_path)
        assert record is not None, "the run that has just ended is on record"
        return record


def log_path(config: Config) -> Path:
    """Where everything that the libraries log during a run is written."""
    return Path(config.root) / config.name / "run.log"


class _Runner(LocalDagRunner):
    """TFX's runner, but the run has a name that is given, and `begin` is called when it is about to be put on record."""

    def __init__(self, run_id: str, begin: Callable[[], None]):
        super().__init__()
        self._run_id = run_id
        self._begin = begin

    def run_with_ir(self, pipeline: Any, run_options: Any = None) -> None:
        substitute_runtime_parameter(pipeline, {PIPELINE_RUN_ID_PARAMETER_NAME: self._run_id})
        self._begin()
        super().run_with_ir(pipeline, run_options)


class _StepListener(logging.Handler):
    """LocalDagRunner has no callbacks; it says in two log records which step starts and which has ended."""

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
