"""The outcome of each run, from the records that its steps wrote. It imports no TensorFlow, for `retrain`, `runs` and the trend page."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components.base.features import DRIFT_FILE, JUDGEMENT_FILE, SUMMARY_FILE
from components.base.files import read_json
from components.evaluation.gate import ALL, NEWEST, SetResult, with_interval
from components.evaluation.metrics import Rate
from components.serving.serving_dir import versions, withdrawn
from pipeline.config.config import Config
from pipeline.runs import history
from pipeline.runs.history import RunRecord
from pipeline.runs.retraining import Decision, Production, Retraining

KEPT_FILES: Final = frozenset({SUMMARY_FILE, DRIFT_FILE, JUDGEMENT_FILE})  # the files that are read here from the artifacts of old runs


@dataclass(frozen=True)
class Judgement:
    """The Evaluator's judgement of a run's model.

    Attributes:
      failures: the reasons that kept the model from being pushed.
      warnings: further remarks on its figures.
      sets: the result on each set of pictures, by the set's name.
    """

    failures: tuple[str, ...]
    warnings: tuple[str, ...]
    sets: Mapping[str, SetResult]


@dataclass(frozen=True)
class Verdict:
    """Whether the model of a complete run is good enough, and whether it is in production.

    Attributes:
      run: the record of the run.
      failures: the reasons why the model was not blessed; empty if it was.
      serving_dir: the folder of pushed versions.
      production: the production model now; None if there is none.
      withdrawn: whether a rollback has withdrawn the run's model.
    """

    run: RunRecord
    failures: tuple[str, ...]
    serving_dir: str
    production: Production | None
    withdrawn: bool

    @property
    def blessed(self) -> bool:
        """Whether the model is good enough to be pushed."""
        return not self.failures

    @property
    def in_production(self) -> bool:
        """Whether the model is blessed and in production, pushed by this run or an earlier run."""
        now, run = self.production, self.run
        return self.blessed and now is not None and run.pushed_version is not None and run.fingerprint == now.fingerprint


def verdict(config: Config, run: RunRecord, judged: Judgement) -> Verdict:
    """Returns the verdict on a run's model, as the serving folder is now."""
    folder = config.serving_dir
    return Verdict(run, judged.failures, folder, production(config), run.recipe in withdrawn(folder))


def judgement(run: RunRecord) -> Judgement | None:
    """Returns the Evaluator's judgement of a run's model; None if it is not on record."""
    found = _left(run, "CaptchaEvaluator", "evaluation", JUDGEMENT_FILE)
    if found is None:
        return None
    sets = {name: SetResult.from_json(entry) for name, entry in found["sets"].items()}
    return Judgement(tuple(found["failures"]), tuple(found.get("warnings", ())), sets)  # earlier releases wrote no warnings


def drift(run: RunRecord) -> dict[str, Any] | None:
    """Returns the result of DriftGate, in the form of `components.data.drift.describe`; None if it is not on record."""
    found: dict[str, Any] | None = _left(run, "DriftGate", "anomalies", DRIFT_FILE)
    return found


def retrainings(config: Config) -> list[Retraining]:
    """Returns the runs that did some work, oldest first: no run with all steps cached, and no hyperparameter search.

    Raises:
      CaptchaPipelineError: the record of the runs cannot be read.
    """
    out_of_service = withdrawn(config.serving_dir)
    return [
        _retraining(config, run, withdrawn=run.recipe in out_of_service)
        for run in history.runs(config.metadata_path)
        if any(step.state != "cached" for step in run.steps) and not run.is_search
    ]


def production(config: Config) -> Production | None:
    """Returns the production model: the newest version in the serving folder, whoever put it there; None if there is none."""
    newest = next(iter(versions(config.serving_dir)), None)
    return Production(str(newest.version), str(newest.original), newest.fingerprint) if newest else None


def accuracy_in_production(config: Config, run: RunRecord) -> Rate | None:
    """Returns the production model's full-sequence accuracy on the newest span; None if the run did not measure it."""
    newest = _with_newest(judged.sets).get(NEWEST) if (judged := judgement(run)) else None
    now = production(config)
    return now.rate(newest, run.fingerprint, run.production_fingerprint) if now and newest else None


def read_badly(what: str, accuracy: Rate, floor: float) -> str:
    """Returns in words the accuracy on `what` if its whole interval is below `floor`, `retraining.min_sequence_accuracy`; else ""."""
    if not accuracy.upper < floor:
        return ""
    return f"the full-sequence accuracy on {what} is {with_interval(accuracy)}; retraining.min_sequence_accuracy is {floor:.2%}"


def report_path(config: Config, run: RunRecord) -> Path | None:
    """Returns the path of a run's report; None if the run did not reach the Evaluator.

    The folder is named after the evaluation, so that a run with all steps cached finds the existing report.
    """
    evaluation = run.artifact_uri("CaptchaEvaluator", "evaluation")
    return Path(config.report_dir) / f"evaluation-{Path(evaluation).name}" / "report.html" if evaluation else None


def _retraining(config: Config, run: RunRecord, *, withdrawn: bool) -> Retraining:
    judged = judgement(run) or Judgement((), (), {})
    distances = (drift(run) or {"distances": {}})["distances"]
    summary = _left(run, "CaptchaExampleGen", "quarantine", SUMMARY_FILE)
    report = report_path(config, run)
    return Retraining(
        run_id=run.run_id,
        started=run.started,
        seconds=sum(step.seconds or 0 for step in run.steps),
        trigger=run.trigger,
        spans=run.spans,
        pictures=summary["good"].get("train", 0) if summary else None,
        drift={name: (it["value"], it["threshold"]) for name, it in distances.items() if it["threshold"] is not None},
        sets=_with_newest(judged.sets),
        decision=_decision(run, withdrawn=withdrawn),
        why=judged.failures or tuple(_stopped(run)),
        warnings=judged.warnings,
        version=run.pushed_version,
        fingerprint=run.fingerprint,
        production_fingerprint=run.production_fingerprint,
        report=str(report.relative_to(config.report_dir)) if report and report.exists() else None,
    )


def _decision(run: RunRecord, *, withdrawn: bool) -> Decision:
    if not run.is_complete:
        return "stopped"
    if not run.blessed:
        return "not blessed"
    return "withdrawn" if withdrawn or not run.pushed_version else "pushed"


def _stopped(run: RunRecord) -> Sequence[str]:
    return [f"{step.node} {step.state}" for step in run.steps if step.state not in ("done", "cached")]


def _with_newest(sets: Mapping[str, SetResult]) -> dict[str, SetResult]:
    """Adds the newest span where it is missing: in a window of one span, it is the whole set."""
    return {NEWEST: sets[ALL], **sets} if ALL in sets else dict(sets)


def _left(run: RunRecord, node: str, key: str, name: str) -> Any:
    """Returns the content of a JSON file in an output of a step; None if the step did not finish, or the file has been removed."""
    uri = run.artifact_uri(node, key)
    with contextlib.suppress(FileNotFoundError):
        return read_json(Path(uri, name), "Remove it: the history then lacks its figures.") if uri else None
    return None
