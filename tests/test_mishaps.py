"""Retrainings in whose middle something happens, on tiny data: spans come and go, and the process is killed."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import call

from components.sources.spans import list_spans
from pipeline import history, local
from pipeline.config import Config
from pipeline.config_file import load_config
from pipeline.retraining import Reason, reason_to_retrain
from pipeline.schedule import Scheduler, retrain_command, status

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
# Loads the versions that are there again and again, until its standard input ends.
READ = """
import select, sys
from components.serving_dir import versions
from pipeline.served_model import ServedModel
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    for pushed in versions(sys.argv[1]):
        ServedModel(pushed.path)
        print(pushed.version, flush=True)
"""


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    few = ["synth.count=300", "trainer.epochs=4", "evaluator.min_sequence_accuracy=0", "evaluator.max_regression=1"]
    return [f"root={tmp_path / 'output'}", f"data.root={tmp_path / 'data'}", *few]


@pytest.fixture
def config(overrides: list[str]) -> Config:
    """Of a pipeline with one span."""
    synth(overrides)
    return load_config(TINY, overrides)


def synth(overrides: list[str]) -> None:
    call("data", "synth", "--config", str(TINY), *(f"--set={override}" for override in overrides))


def run(config: Config, happens: Callable[[], None]) -> history.RunRecord:
    """Runs the pipeline; something happens when the Trainer is about to begin."""
    return local.run(config, lambda step, event: happens() if (step, event) == ("Trainer", "running") else None)


def test_spans_that_come_and_go_during_a_run(config: Config, overrides: list[str]) -> None:
    first = run(config, lambda: synth(overrides))
    assert first.is_complete
    assert first.spans == (1,)
    assert reason_to_retrain(config) == Reason("new in the window: span 2")
    second = run(config, lambda: shutil.rmtree(list_spans(config.data.root)[0].path))
    assert second.is_complete
    assert second.spans == (1, 2)
    assert reason_to_retrain(config) == Reason("no longer in the window: span 1")


@pytest.fixture
def reader(config: Config) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", READ, config.serving_dir],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TINY.parents[1],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    yield process
    process.kill()
    process.communicate()


def test_a_retraining_that_is_killed_is_completed_by_the_next_tick(
    config: Config, overrides: list[str], reader: "subprocess.Popen[str]"
) -> None:
    scheduler = Scheduler(config, "0 3 * * *", retrain_command(TINY, overrides))
    folder = Path(config.root) / config.name
    log = folder / "retrain.log"
    folder.mkdir(parents=True)
    tick = threading.Thread(target=scheduler._tick)
    tick.start()
    deadline = time.monotonic() + 300
    while not log.exists() or "epoch 2/" not in log.read_text():
        assert time.monotonic() < deadline
        assert tick.is_alive(), log.read_text()
        time.sleep(0.05)
    assert scheduler._process is not None
    os.kill(scheduler._process.pid, signal.SIGKILL)
    tick.join()
    assert status(folder)["exit_code"] == -signal.SIGKILL
    (killed,) = history.runs(config.metadata_path)
    assert [step.state for step in killed.steps if step.node == "Trainer"] == ["running"]

    before = len(log.read_text())
    scheduler._tick()
    told = log.read_text()[before:]
    assert status(folder)["exit_code"] == 0, told
    assert f"Retraining: the last run, {killed.run_id}, did not come to its end" in told
    assert "going on after epoch" in told
    runs = history.runs(config.metadata_path)
    assert "running" not in [step.state for run in runs for step in run.steps]
    assert dataclasses.replace(runs[0], steps=()) == dataclasses.replace(killed, steps=())
    assert runs[1].is_complete

    output, error = reader.communicate(timeout=60)
    assert reader.returncode == 0, error
    assert set(output.split()) == {runs[1].pushed_version}
