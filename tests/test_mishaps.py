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
from pid_namespace import pid_namespace

from components.sources.spans import list_spans
from pipeline import history, local
from pipeline.cli import STOPPED
from pipeline.config import Config
from pipeline.config_file import load_config
from pipeline.retraining import Reason, reason_to_retrain
from pipeline.schedule import Scheduler, retrain_command, status

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
PROGRAM = str(Path(sys.executable).with_name("captcha-pipeline"))
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


def test_a_search_that_is_killed_early_is_no_run_that_was_cut_short(config: Config, overrides: list[str]) -> None:
    command = [PROGRAM, "tune", "--config", str(TINY), *(f"--set={override}" for override in overrides)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        process.kill()
    assert "CaptchaExampleGen" in told
    (killed,) = history.runs(config.metadata_path)
    assert "Tuner" not in [step.node for step in killed.steps]
    assert killed.is_search
    assert reason_to_retrain(config) == Reason("there has been no run yet")


def test_sigterm_to_the_first_process_of_a_container_stops_a_run(config: Config, overrides: list[str]) -> None:
    """To which the kernel delivers no signal for which it has no handler."""
    options = ["--config", str(TINY), *(f"--set={override}" for override in overrides)]
    with subprocess.Popen(
        [*pid_namespace(), PROGRAM, "retrain", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        told: list[str] = []
        for line in process.stdout:
            told.append(line)
            if line.startswith("epoch 1/"):
                break
        (first,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        told += process.stdout
    output = "".join(told)
    assert process.returncode == STOPPED, output
    assert "Traceback" not in output
    assert told[-1].startswith("Stopped. The next run takes up"), output
    (stopped,) = history.runs(config.metadata_path)
    assert [step.state for step in stopped.steps if step.node == "Trainer"] == ["interrupted"]
    completed = call("retrain", *options)
    assert f"Retraining: the last run, {stopped.run_id}, did not come to its end" in completed
    assert "going on after epoch" in completed
