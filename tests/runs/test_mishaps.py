"""Events during retrainings, on tiny data: spans appear and disappear, and the process is killed."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.data.spans import list_spans
from components.serving.serving_dir import versions
from pipeline.cli.terminal import NOT_PUSHED, STOPPED
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runners import local
from pipeline.runs import history
from pipeline.runs.policy import Reason, reason_to_retrain
from pipeline.runs.scheduler import Scheduler, retrain_command, status
from tests.support.command import call
from tests.support.paths import TINY
from tests.support.pid_namespace import pid_namespace
from tests.support.recorded_run import last_run

pytestmark = pytest.mark.long

PROGRAM = str(Path(sys.executable).with_name("captcha-pipeline"))
# Loads all existing versions repeatedly, until its standard input ends.
READ = """
import select, sys
from components.serving.serving_dir import versions
from pipeline.inference.served_model import ServedModel
print("reading", flush=True)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    for pushed in versions(sys.argv[1]):
        ServedModel(pushed.path)
        print(pushed.version, flush=True)
"""


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("mishaps")
    few = ["synth.count=150", "trainer.epochs=4", "evaluator.min_sequence_accuracy=0", "evaluator.max_regression=1"]
    return [f"root={root / 'output'}", f"data.root={root / 'data'}", *few]


@pytest.fixture(scope="module")
def config(overrides: list[str]) -> Config:
    """Returns the configuration of a pipeline with two spans. The first test transforms them; the other tests find them cached."""
    synth(overrides)
    synth(overrides)
    return load_config(TINY, overrides)


def synth(overrides: list[str]) -> None:
    call("data", "synth", "--config", str(TINY), *(f"--set={override}" for override in overrides))


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


def test_a_killed_retraining_is_completed_by_the_next_tick(config: Config, overrides: list[str], reader: "subprocess.Popen[str]") -> None:
    scheduler = Scheduler(config, "0 3 * * *", retrain_command(TINY, overrides))
    folder = Path(config.root) / config.name
    log = folder / "retrain.log"
    folder.mkdir(parents=True, exist_ok=True)
    assert not versions(config.serving_dir)
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
    killed = last_run(config)
    assert [step.state for step in killed.steps if step.node == "Trainer"] == ["running"]

    length = len(log.read_text())
    scheduler._tick()
    told = log.read_text()[length:]
    assert status(folder)["exit_code"] == 0, told
    assert f"Retraining: the last run, {killed.run_id}, did not finish" in told
    assert "resuming after epoch" in told
    before, completed = history.runs(config.metadata_path)[-2:]
    assert "running" not in [step.state for run in (before, completed) for step in run.steps]
    assert dataclasses.replace(before, steps=()) == dataclasses.replace(killed, steps=())
    assert completed.is_complete

    output, error = reader.communicate(timeout=60)
    assert reader.returncode == 0, error
    assert set(output.split()) == {completed.pushed_version}


def test_a_killed_search_is_no_unfinished_run(config: Config, overrides: list[str], tmp_path: Path) -> None:
    overrides = [*overrides, f"root={tmp_path}"]
    config = load_config(TINY, overrides)
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
    """The kernel delivers to this process only signals for which it has a handler."""
    # A different model, which is not pushed.
    changes = [*overrides, "trainer.seed=2", "evaluator.min_sequence_accuracy=1"]
    options = ["--config", str(TINY), *(f"--set={override}" for override in changes)]
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
    assert told[-1].startswith("Stopped. The next run resumes"), output
    stopped = last_run(config)
    assert [step.state for step in stopped.steps if step.node == "Trainer"] == ["interrupted"]
    completed = call("retrain", *options, exit_code=NOT_PUSHED)
    assert f"Retraining: the last run, {stopped.run_id}, did not finish" in completed
    assert "resuming after epoch" in completed


def test_spans_that_appear_and_disappear_during_a_run(config: Config, overrides: list[str]) -> None:
    def happen(step: str, event: str) -> None:
        if (step, event) == ("Trainer", "running"):
            synth(overrides)
            shutil.rmtree(list_spans(config.data.root)[0].path)

    changes = [*overrides, "trainer.seed=3", "evaluator.min_sequence_accuracy=1"]
    run = local.run(load_config(TINY, changes), happen)
    assert run.is_complete
    assert run.spans == (1, 2)
    assert [span.number for span in list_spans(config.data.root)] == [2, 3]
    assert reason_to_retrain(load_config(TINY, changes)) == Reason("new in the window: span 3")
    assert reason_to_retrain(load_config(TINY, [*changes, "data.exclude=[3]"])) == Reason("no longer in the window: span 1")
