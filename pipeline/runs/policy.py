"""Decides whether to run or to retrain. It takes a second, and imports TensorFlow only if the production model has to read a new span."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from pipeline.config.config import Config
from pipeline.runs import history
from pipeline.runs.history import RunRecord
from pipeline.runs.inputs import run_inputs
from pipeline.runs.outcomes import accuracy_in_production, drift, judgement, read_badly, report_path


@dataclasses.dataclass(frozen=True)
class Reason:
    """The reason to retrain, in words. `attempt`: see `pipeline.runs.inputs.RunInputs`."""

    words: str
    attempt: int = 0


def reason_to_retrain(config: Config, *, force: bool = False) -> Reason | None:
    """Returns why a new run would differ from the last, or why another model is wanted; None if neither applies.

    A model that was not blessed is no reason: the same data, configuration and code would make it again. If the data are the same and
    another model is wanted, the fit starts from another seed, or with a warm start from another model.

    Args:
      config: the configuration.
      force: whether another model is wanted in any case.

    Raises:
      CaptchaPipelineError: no span to train on exists, a span is incomplete, or the record of the runs cannot be read.
    """
    runs = [run for run in history.runs(config.metadata_path) if not run.is_search]
    if not runs:
        run_inputs(config)  # raises if the data are unusable
        return Reason("there has been no run yet")
    last = runs[-1]
    attempt = current_attempt(config, runs)
    if not last.is_complete:
        return Reason(f"the last run, {last.run_id}, did not finish", attempt)
    if words := _what_has_changed(config, last):
        return Reason(words, attempt)
    if words := "requested" if force else _what_is_wanted(config, last, runs):
        return Reason(words, attempt + 1)
    return None


def current_attempt(config: Config, runs: Sequence[RunRecord]) -> int:
    """Returns the attempt of the newest run with the configuration, data and code that a run would have now; 0 if there is none.

    A run with this attempt repeats that run. Without it, a run after a requested retraining would make the earlier model again.

    Args:
      config: the configuration.
      runs: the runs on record, oldest first.

    Raises:
      CaptchaPipelineError: no span to train on exists, or a span is incomplete.
    """
    now: dict[int, str] = {}
    for run in reversed(runs):
        if run.recipe and run.recipe == (now.get(run.attempt) or now.setdefault(run.attempt, run_inputs(config, run.attempt).recipe)):
            return run.attempt
    return 0


def repeated_run(config: Config, runs: Sequence[RunRecord], attempt: int) -> RunRecord | None:
    """Returns the newest run if a run would repeat it now: inputs and configuration are the same, and outputs, records and report exist.

    Args:
      config: the configuration.
      runs: the runs on record, oldest first.
      attempt: the attempt that a run would have, from `current_attempt`.

    Raises:
      CaptchaPipelineError: no span to train on exists, or a span is incomplete.
    """
    last = runs[-1] if runs else None
    if last is None or not last.is_complete or last.configuration != config.as_yaml():
        return None
    outputs = (Path(uri) for step in last.steps for uris in step.outputs.values() for uri in uris)
    report = report_path(config, last)
    if not (report and report.exists() and judgement(last) and drift(last) and all(output.exists() for output in outputs)):
        return None
    return last if last.inputs == run_inputs(config, attempt).digest else None


def _what_has_changed(config: Config, last: RunRecord) -> str:
    if last.recipe == run_inputs(config, last.attempt).recipe:
        return ""
    there = {span.number for span in config.data.read_window().spans}
    new = sorted(there - set(last.spans))
    if new and not config.retraining.every_span:
        without_new = config.data.model_copy(update={"exclude": (*config.data.exclude, *new)})
        before = config.model_copy(update={"data": without_new})
        if last.spans and run_inputs(before, last.attempt).recipe == last.recipe:
            from pipeline.runs.new_spans import what_is_unlike

            return what_is_unlike(config, last, new)
    if new:
        return f"new in the window: span {', '.join(map(str, new))}"
    if gone := sorted(set(last.spans) - there):
        return f"no longer in the window: span {', '.join(map(str, gone))}"
    return "the configuration, the code of a step, a library or the content of a span differs"


def _what_is_wanted(config: Config, last: RunRecord, runs: list[RunRecord]) -> str:
    wanted = config.retraining
    # The newest run that fitted the model: later runs reuse its fit, and the output of an earlier fit may have been removed.
    fitted = (run for run in reversed(runs) if run.recipe == last.recipe and run.state_of("Trainer") == "done")
    trained = next(fitted, last).started
    age = (datetime.now(timezone.utc) - trained).total_seconds() / 86400
    if wanted.max_age is not None and age > wanted.max_age:
        return f"the last model was trained {age:.1f} days ago; retraining.max_age is {wanted.max_age:g}"
    floor = wanted.min_sequence_accuracy
    if floor is not None and last.attempt == 0:  # only once: a third fit will not read what two fits could not
        accuracy = accuracy_in_production(config, last)
        return read_badly("the newest span", accuracy, floor) if accuracy else ""
    return ""
