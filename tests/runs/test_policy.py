"""The reasons to retrain."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import typer

from components.base.errors import CaptchaPipelineError
from components.base.files import locked
from components.data.spans import list_spans
from components.data.window import Window
from components.serving.serving_dir import push, versions
from pipeline.cli.terminal import STOPPED
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs import history, new_spans
from pipeline.runs.inputs import run_inputs
from pipeline.runs.policy import Reason, current_attempt, reason_to_retrain
from tests.support.command import call
from tests.support.model_folder import make_former, make_model
from tests.support.paths import TINY

FITTED = history.StepRecord("Trainer", "done", 1.0, 8, {"model": ("uri",)})
DONE = history.StepRecord("AtomicPusher", "done", 1.0, 9, {"pushed_model": ("uri",)})

Remember = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Returns the configuration of a pipeline with one span."""
    config = load_config(TINY, [f"root={tmp_path / 'output'}", f"data.root={tmp_path / 'data'}", "synth.count=30", "synth.shard_size=30"])
    add_span(config)
    return config


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    return config.model_copy(update={name: getattr(config, name).model_copy(update=keys) for name, keys in sections.items()})


def add_span(config: Config) -> None:
    options = ["--set", f"root={config.root}", "--set", f"data.root={config.data.root}", "--set", "synth.count=30"]
    call("data", "synth", "--config", str(TINY), *options)


@pytest.fixture
def remember(config: Config, monkeypatch: pytest.MonkeyPatch) -> Remember:
    """Returns a function that records complete runs of the current configuration and data, except for the given changes."""

    def put(*changes: dict[str, Any]) -> None:
        now = history.RunRecord(
            "1", datetime.now(timezone.utc), (FITTED, DONE), "1", True, run_inputs(config).recipe, "this", (1,), "before"
        )
        monkeypatch.setattr(history, "runs", lambda _: [dataclasses.replace(now, **change) for change in changes])

    return put


def test_the_first_run_has_a_reason(config: Config) -> None:
    assert reason_to_retrain(config) == Reason("there has been no run yet")


def test_an_unservable_model_in_production_is_named(config: Config, remember: Remember, tmp_path: Path, monkeypatch: Any) -> None:
    options = ["--config", str(TINY), "--set", f"root={config.root}", "--set", f"data.root={config.data.root}", "--set", "synth.count=30"]
    options += ["--set", "synth.shard_size=30"]
    remember({})
    assert "Not servable" not in call("runs", *options)
    former = push(make_former(tmp_path / "former", "f"), config.serving_dir, keep=5)
    named = f"Not servable: An earlier release exported version {former.version}, which is in production"
    assert named in call("runs", *options)
    nothing = call("retrain", *options)
    assert "Nothing to do" in nothing
    assert named in nothing

    def stop(_: Config) -> None:
        raise typer.Exit(5)

    monkeypatch.setattr("pipeline.runners.beam.engine_check.check_engines_of", stop)
    assert named in call("run", *options, exit_code=5)


def test_no_reason_if_nothing_has_changed(config: Config, remember: Remember) -> None:
    remember({})
    assert reason_to_retrain(config) is None
    remember({"blessed": False, "pushed_version": None})
    assert reason_to_retrain(config) is None, "it would not be blessed again"


def test_an_unfinished_run_is_a_reason(config: Config, remember: Remember) -> None:
    remember({}, {"run_id": "2", "steps": (dataclasses.replace(DONE, state="interrupted", outputs={}),)})
    assert reason_to_retrain(config) == Reason("the last run, 2, did not finish")


def test_a_search_for_hyperparameters_does_not_count_as_a_run(config: Config, remember: Remember) -> None:
    remember({}, {"steps": (history.StepRecord("Tuner", "done", 1.0, 10, {}),), "recipe": None})
    assert reason_to_retrain(config) is None
    interrupted = history.StepRecord("CaptchaExampleGen", "interrupted", None, 10, {})
    remember({}, {"steps": (interrupted,), "fingerprint": None, "trigger": history.SEARCH})
    assert reason_to_retrain(config) is None, "killed before the Tuner began"
    remember({"steps": (), "fingerprint": None, "trigger": history.SEARCH})
    assert reason_to_retrain(config) == Reason("there has been no run yet")


def test_new_and_removed_spans_are_a_reason(config: Config, remember: Remember) -> None:
    remember({})
    add_span(config)
    assert reason_to_retrain(config) == Reason("new in the window: span 2")
    remember({"spans": (1, 2)})
    assert reason_to_retrain(changed(config, data={"window": 1})) == Reason("no longer in the window: span 1")


def test_another_recipe_is_a_reason(config: Config, remember: Remember) -> None:
    remember({"recipe": "other"})
    assert reason_to_retrain(config) == Reason("the configuration, the code of a step, a library or the content of a span differs")


def test_excluding_a_missing_span_changes_nothing(config: Config, remember: Remember) -> None:
    remember({})
    assert reason_to_retrain(changed(config, data={"exclude": (7,), "window": 5})) is None


def made(config: Config, attempt: int) -> dict[str, Any]:
    """Returns the recorded fields of a run of this configuration."""
    return {"attempt": attempt, "recipe": run_inputs(config, attempt).recipe}


def test_a_forced_retraining_counts_its_attempts(config: Config, remember: Remember) -> None:
    remember({})
    assert reason_to_retrain(config, force=True) == Reason("requested", attempt=1)
    remember({}, made(config, 3))
    assert reason_to_retrain(config) is None, "the model that was asked for is there"
    assert reason_to_retrain(config, force=True) == Reason("requested", attempt=4)
    remember({"recipe": "other"})
    reason = reason_to_retrain(config, force=True)
    assert reason
    assert reason.attempt == 0, "it is another model in any case"
    remember({}, {"run_id": "2", "steps": (dataclasses.replace(DONE, state="interrupted", outputs={}),)} | made(config, 2))
    assert reason_to_retrain(config) == Reason("the last run, 2, did not finish", attempt=2)


@pytest.mark.slow
def test_a_run_repeats_the_newest_attempt_at_the_same_model(config: Config, remember: Remember) -> None:
    def attempt() -> int:
        return current_attempt(config, history.runs(""))

    remember()
    assert attempt() == 0
    remember({}, made(config, 1))
    assert attempt() == 1
    remember({}, made(config, 2), made(config, 1), {"recipe": None})
    assert attempt() == 1, "a run that did not come so far as to know its recipe says nothing"
    longer = changed(config, trainer={"epochs": 9})
    remember({}, made(config, 1), made(longer, 0))
    assert attempt() == 1
    reason = reason_to_retrain(config)
    assert reason
    assert reason.attempt == 1, "back to the configuration before: its newest model is wanted, not its first"
    remember(made(longer, 4))
    assert attempt() == 0, "another configuration has attempts of its own"


def test_an_old_model_is_a_reason(config: Config, remember: Remember) -> None:
    aged = changed(config, retraining={"max_age": 7.0})
    week = datetime.now(timezone.utc) - timedelta(days=8)
    remember({})
    assert reason_to_retrain(aged) is None
    reason = Reason("the last model was trained 8.0 days ago; retraining.max_age is 7", attempt=1)
    cached = {"steps": (dataclasses.replace(FITTED, state="cached"), DONE)}
    remember({"started": week}, cached)
    assert reason_to_retrain(aged) == reason, "cached since"
    remember({"started": week, "steps": (FITTED,)}, cached)
    assert reason_to_retrain(aged) == reason, "a run that was cut short has fitted it"
    remember({"started": week}, {}, cached)
    assert reason_to_retrain(aged) is None, "what the first fit had left was removed, and it has been fitted again"
    remember({"started": week, "recipe": "other"}, {})
    assert reason_to_retrain(aged) is None
    assert reason_to_retrain(config) is None


def judged(folder: Path, candidate: float, production: float) -> history.StepRecord:
    """Returns an Evaluator step with these accuracies on the newest span."""
    folder.mkdir()
    values = (("candidate", candidate), ("production", production))
    rates = {name: {"value": value, "lower": value - 0.05, "upper": value + 0.05} for name, value in values}
    sets = {"all": rates | {"p_value": 1.0, "count": 100}, "newest span": rates | {"p_value": 1.0, "count": 100}}
    (folder / "judgement.json").write_text(json.dumps({"failures": [], "sets": sets}))
    return history.StepRecord("CaptchaEvaluator", "done", 1.0, 8, {"evaluation": (str(folder),)})


def test_a_low_accuracy_on_the_newest_span_is_a_reason(config: Config, remember: Remember, tmp_path: Path) -> None:
    strict = changed(config, retraining={"min_sequence_accuracy": 0.9})
    push(make_model(tmp_path / "before", "before"), config.serving_dir, keep=9)
    push(make_model(tmp_path / "this", "this"), config.serving_dir, keep=9)
    step = judged(tmp_path / "judged", 0.95, 0.6)
    remember({"steps": (step, DONE)})
    assert reason_to_retrain(strict) is None
    shutil.rmtree(versions(config.serving_dir)[0].path)
    remember({"steps": (step, DONE), "blessed": False, "pushed_version": None})
    words = "the full-sequence accuracy on the newest span is 60.00% (55.00% to 65.00%); retraining.min_sequence_accuracy is 90.00%"
    assert reason_to_retrain(strict) == Reason(words, attempt=1)
    assert reason_to_retrain(changed(config, retraining={"min_sequence_accuracy": 0.64})) is None, "it may well read as much"
    assert reason_to_retrain(config) is None
    remember({"steps": (step, DONE), "blessed": False, "pushed_version": None} | made(config, 1))
    assert reason_to_retrain(strict) is None, "it has been tried"


@pytest.mark.slow
def test_a_new_span_is_no_reason_without_every_span(config: Config, remember: Remember, tmp_path: Path) -> None:
    settings = changed(config, retraining={"every_span": False})
    window = config.data.read_window()
    profile = new_spans.profile_of(config, window, window.spans[0])
    assert sum(profile.counts["size"].values()) == 30
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "profiles.json").write_text(json.dumps({"span-000001": profile.to_json()}))
    steps = (history.StepRecord("CaptchaExampleGen", "done", 1.0, 1, {"profiles": (str(tmp_path / "profiles"),)}), DONE)
    remember({"steps": steps})
    add_span(config)
    before = run_inputs(config).recipe
    lenient = changed(settings, drift=dict.fromkeys(settings.drift.thresholds))
    assert reason_to_retrain(lenient) is None
    kept = (Path(config.root) / config.name / "looked.json").stat().st_mtime_ns
    assert reason_to_retrain(lenient) is None
    assert (Path(config.root) / config.name / "looked.json").stat().st_mtime_ns == kept, "the span is looked at once"
    reason = reason_to_retrain(changed(lenient, drift={"characters": 0.0}))
    assert reason
    assert reason.words.startswith("The pictures or labels of span-000002 differ from those of the other spans: characters: ")
    reason = reason_to_retrain(changed(lenient, trainer={"epochs": 9}))
    assert reason == Reason("new in the window: span 2"), "another configuration is a reason, whatever the span is like"
    assert run_inputs(config).recipe == before


def test_a_touched_shard_is_read_again_and_keeps_the_recipe(config: Config, remember: Remember) -> None:
    before = run_inputs(config)
    os.utime(list_spans(config.data.root)[0].files("train")[0], ns=(1, 1))
    after = run_inputs(config)
    assert after.spans != before.spans
    assert after.recipe == before.recipe
    remember({})
    assert reason_to_retrain(config) is None


def test_a_new_span_with_a_changed_shard_is_refused(config: Config) -> None:
    (span,) = list_spans(config.data.root)
    span.files("train")[0].write_bytes(span.files("eval")[0].read_bytes())
    with pytest.raises(CaptchaPipelineError, match=r"span-000001/train/.* has changed"):
        new_spans.profile_of(config, Window((span,), None), span)


def test_retrain_does_nothing_while_a_run_is_at_work(config: Config) -> None:
    """For cron this is no failure; for a run started by hand it is."""
    options = ["--config", str(TINY), "--set", f"root={config.root}", "--set", f"data.root={config.data.root}"]
    with locked(Path(config.run_lock), ""):
        message = f"Nothing to do now: A run (process {os.getpid()}) is at work in {Path(config.root) / config.name}.\n"
        assert call("retrain", *options) == message
        with pytest.raises(CaptchaPipelineError, match=f"Another run .process {os.getpid()}. is in progress"):
            call("run", *options)
    assert history.runs(config.metadata_path) == []


@pytest.mark.parametrize("command", ["run", "retrain", "tune"])
def test_sigterm_stops_like_ctrl_c(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def terminated(*_: Any, **__: Any) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "which would end the tests"
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("pipeline.config.loading.load_config", terminated)
    before = signal.getsignal(signal.SIGTERM)
    assert "Stopped." in call(command, exit_code=STOPPED)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_stop_that_a_library_turns_into_an_error_is_still_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            raise TypeError("as TensorFlow raises") from None

    monkeypatch.setattr("pipeline.config.loading.load_config", interrupted)
    assert "Stopped." in call("run", exit_code=STOPPED)


def test_no_span_is_an_error(config: Config) -> None:
    with pytest.raises(CaptchaPipelineError, match="There are no spans"):
        reason_to_retrain(changed(config, data={"root": "/nowhere"}))


def test_the_policy_does_not_import_tensorflow() -> None:
    code = "import sys, pipeline.runs.policy; sys.exit('tensorflow' in sys.modules or 'tfx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
