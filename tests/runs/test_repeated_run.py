"""A run to which nothing has changed."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from components.base.features import DRIFT_FILE, JUDGEMENT_FILE
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs.history import RunRecord, StepRecord
from pipeline.runs.inputs import run_inputs
from pipeline.runs.outcomes import report_path
from pipeline.runs.policy import repeated_run
from tests.support.command import call
from tests.support.paths import TINY


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Returns the configuration of a pipeline with one span."""
    settings = [f"root={tmp_path / 'output'}", f"data.root={tmp_path / 'data'}", "synth.count=30", "synth.shard_size=30"]
    call("data", "synth", "--config", str(TINY), *(f"--set={setting}" for setting in settings))
    return load_config(TINY, settings)


@pytest.fixture
def last(config: Config, tmp_path: Path) -> RunRecord:
    """Returns a complete run of the current configuration and data, with its outputs."""
    steps = []
    outputs = {"DriftGate": "anomalies", "CaptchaEvaluator": "evaluation", "AtomicPusher": "pushed_model"}
    for number, (node, key) in enumerate(outputs.items()):
        output = tmp_path / node
        output.mkdir()
        steps.append(StepRecord(node, "done", 1.0, number, {key: (str(output),)}))
    (tmp_path / "DriftGate" / DRIFT_FILE).write_text(json.dumps({"distances": {}}))
    (tmp_path / "CaptchaEvaluator" / JUDGEMENT_FILE).write_text(json.dumps({"failures": [], "sets": {}}))
    inputs = run_inputs(config)
    now = datetime.now(timezone.utc)
    run = RunRecord("1", now, tuple(steps), "1", True, inputs.recipe, "this", (1,), configuration=config.as_yaml(), inputs=inputs.digest)
    report = report_path(config, run)
    assert report is not None
    report.parent.mkdir(parents=True)
    report.touch()
    return run


def test_the_newest_run_is_repeated_if_nothing_has_changed(config: Config, last: RunRecord) -> None:
    assert repeated_run(config, [last], 0) == last
    assert repeated_run(config, [dataclasses.replace(last, inputs="other"), last], 0) == last
    assert repeated_run(config, [], 0) is None


@pytest.mark.parametrize(
    "change",
    [{"inputs": "other"}, {"inputs": ""}, {"configuration": ""}, {"steps": ()}],
    ids=["other inputs", "inputs not on record", "configuration not on record", "incomplete"],
)
def test_a_run_that_differs_is_not_repeated(config: Config, last: RunRecord, change: dict[str, Any]) -> None:
    assert repeated_run(config, [dataclasses.replace(last, **change)], 0) is None
    assert repeated_run(config, [last, dataclasses.replace(last, **change)], 0) is None


def another_setting(config: Config, last: RunRecord) -> Config:
    return config.model_copy(update={"gc": config.gc.model_copy(update={"keep_runs": 77})})


def another_span(config: Config, last: RunRecord) -> Config:
    call("data", "synth", "--config", str(TINY), f"--set=root={config.root}", f"--set=data.root={config.data.root}", "--set=synth.count=9")
    return config


def no_output(config: Config, last: RunRecord) -> Config:
    Path(last.artifact_uri("AtomicPusher", "pushed_model") or "").rmdir()
    return config


def no_judgement(config: Config, last: RunRecord) -> Config:
    Path(last.artifact_uri("CaptchaEvaluator", "evaluation") or "", JUDGEMENT_FILE).unlink()
    return config


def no_drift(config: Config, last: RunRecord) -> Config:
    Path(last.artifact_uri("DriftGate", "anomalies") or "", DRIFT_FILE).unlink()
    return config


def no_report(config: Config, last: RunRecord) -> Config:
    (report_path(config, last) or Path()).unlink()
    return config


@pytest.mark.parametrize("happens", [another_setting, another_span, no_output, no_judgement, no_drift, no_report])
def test_a_change_makes_a_new_run(config: Config, last: RunRecord, happens: Callable[[Config, RunRecord], Config]) -> None:
    assert repeated_run(happens(config, last), [last], 0) is None


def test_another_attempt_is_a_new_run(config: Config, last: RunRecord) -> None:
    assert repeated_run(config, [last], 1) is None


def test_to_show_the_last_result_takes_no_tensorflow() -> None:
    modules = "pipeline.runs.policy, pipeline.runs.outcomes, pipeline.reporting.tables, pipeline.reporting.trend, pipeline.cli.running"
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules or 'tfx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
