"""`captcha-pipeline gc` on real runs with very little data: it keeps everything that the other commands need."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from components.serving.serving_dir import versions
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs import history
from pipeline.runs.outcomes import retrainings
from pipeline.runs.policy import reason_to_retrain
from pipeline.runs.scheduler import retrain_command
from tests.support.command import call
from tests.support.paths import TINY
from tests.support.recorded_run import last_run

pytestmark = pytest.mark.long

MODEL_STEPS = {"Trainer", "LatestPushedModel", "CaptchaEvaluator", "AtomicPusher"}
LITTLE = [
    "synth.count=150",
    "trainer.epochs=1",
    "evaluator.min_sequence_accuracy=0",
    "evaluator.max_regression=1",
    "evaluator.confidence=0.999999",  # so wide that no model is worse than another
    "pusher.keep=2",
    "gc.keep_runs=1",
]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("gc")
    return [f"root={root / 'output'}", f"data.root={root / 'data'}", *LITTLE]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Config:
    return load_config(TINY, overrides)


def command(overrides: list[str], name: str, *arguments: str) -> str:
    return call(name, "--config", str(TINY), *(f"--set={override}" for override in overrides), *arguments)


def run(overrides: list[str], seed: int) -> history.RunRecord:
    """Runs the pipeline with another seed, which gives another model, and pushes it."""
    command([*overrides, f"trainer.seed={seed}", "gc.after_run=false"], "run")
    return last_run(load_config(TINY, overrides))


def done(record: history.RunRecord) -> set[str]:
    return {step.node for step in record.steps if step.state == "done"}


def is_there(record: history.RunRecord, node: str, key: str) -> bool:
    uri = Path(record.artifact_uri(node, key) or "")
    return uri.is_dir() and any(uri.iterdir())


@pytest.fixture(scope="module")
def three_runs(overrides: list[str], config: Config) -> list[history.RunRecord]:
    """Returns three runs on the same data: the first version has been pruned, the second and the third are in the serving folder."""
    call("data", "synth", "--config", str(TINY), *(f"--set={override}" for override in overrides))
    records = [run(overrides, seed) for seed in (2, 3, 1)]
    assert [str(pushed.version) for pushed in versions(config.serving_dir)] == [records[2].pushed_version, records[1].pushed_version]
    return records


@pytest.fixture(scope="module")
def collected(three_runs: list[history.RunRecord], overrides: list[str], config: Config) -> list[history.RunRecord]:
    """Returns the same runs, after gc."""
    told = retrainings(config)
    listed = command(overrides, "runs")
    before = sum(path.lstat().st_size for path in Path(config.pipeline_root).rglob("*"))
    planned = command(overrides, "gc", "--dry-run")
    assert f"artifacts/Trainer/*/{three_runs[0].steps[-3].execution_id}" in planned
    removed = command(overrides, "gc")
    assert removed.splitlines()[1:] == planned.splitlines()[1:]
    assert sum(path.lstat().st_size for path in Path(config.pipeline_root).rglob("*")) < before
    assert "Nothing to remove" in command(overrides, "gc", "--dry-run")
    # Every figure of the oldest run is still shown.
    assert command(overrides, "runs") == listed
    assert [(it.sets, it.drift, it.pictures, it.decision) for it in retrainings(config)] == [
        (it.sets, it.drift, it.pictures, it.decision) for it in told
    ]
    return three_runs


def test_outputs_that_no_kept_run_needs_are_removed(collected: list[history.RunRecord], config: Config) -> None:
    first, second, third = collected
    for node, key in (("Trainer", "model"), ("Trainer", "model_run"), ("AtomicPusher", "pushed_model"), ("CaptchaEvaluator", "blessing")):
        assert [is_there(record, node, key) for record in collected] == [False, True, True], (node, key)
    assert all(is_there(first, "Transform", key) for key in ("transform_graph", "transformed_examples")), "which the others found cached"
    assert {path.name for path in Path(config.log_dir).iterdir()} == {second.fingerprint, third.fingerprint}


def test_every_command_works_after_gc(collected: list[history.RunRecord], overrides: list[str], config: Config) -> None:
    third = collected[2]
    for pushed in versions(config.serving_dir):
        lineage = command(overrides, "runs", "--version", str(pushed.version))
        assert "span-000001" in lineage
        assert "removed by gc" not in lineage
    report = Path(re.sub(r"^Report: ", "", command(overrides, "report").strip()))
    assert third.run_id in report.read_text(encoding="utf-8")
    page = Path(re.sub(r"^Trend: ", "", command(overrides, "trend").strip()))
    links = re.findall(r"evaluation-\d+/report\.html", page.read_text(encoding="utf-8"))
    assert len(set(links)) == 2
    assert all((page.parent / link).is_file() for link in links)
    assert third.run_id in page.read_text(encoding="utf-8")
    assert collected[0].run_id in page.read_text(encoding="utf-8")
    assert "pictures" in command(overrides, "evaluate")


def test_an_unchanged_run_is_cached_and_needs_no_retraining(
    collected: list[history.RunRecord], overrides: list[str], config: Config
) -> None:
    assert "Nothing to do" in command(overrides, "retrain")
    # No step depends on this setting.
    assert "every step was cached" in command([*overrides, "retraining.max_age=1000"], "run")
    assert reason_to_retrain(config) is None
    # In the newest complete run every step is cached now.
    assert "Nothing to remove" in command(overrides, "gc")
    assert "every step was cached" in command(overrides, "run")


def test_a_killed_run_is_resumed_and_a_removed_model_is_trained_again(
    collected: list[history.RunRecord], overrides: list[str], config: Config
) -> None:
    first = collected[0]
    warm = [*overrides, "trainer.epochs=3", "trainer.warm_start={epochs: 3}"]
    with subprocess.Popen(retrain_command(TINY, warm), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert any("epoch 1/3" in line for line in process.stdout)
        os.killpg(process.pid, signal.SIGKILL)
    assert not last_run(config).is_complete
    (checkpoint,) = Path(config.checkpoint_dir).iterdir()
    command(overrides, "gc")
    assert checkpoint.is_dir()
    printed = command([*warm, "gc.after_run=false"], "retrain")
    assert "resuming after epoch" in printed
    assert "Removed" not in printed
    # The run has pushed a third version, so only the record of the first run is left.
    printed = command([*overrides, "trainer.seed=2"], "run")
    again = last_run(config)
    assert again.fingerprint == first.fingerprint
    assert done(again) == MODEL_STEPS
    assert "Removed output of old runs" in printed
    assert not list(Path(config.checkpoint_dir).iterdir())
    assert is_there(again, "Trainer", "model")
