"""The Trainer on several replicas: two processes on this machine, and two logical devices of its CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from components.base.features import HISTORY_FILE, PROBABILITIES, SPEC_FILE
from components.data.captcha_spec import CaptchaSpec
from components.training.checkpoint import JUDGED_BY
from components.training.hyperparameters import Hyperparameters, WarmStart
from components.training.worker import read_fn_args, write_fn_args
from tests.support.encoded import encode
from tests.support.paths import SUPPORT
from tests.support.transform_run import draw, emitted, trainer_arguments, transform

pytestmark = pytest.mark.long

SPEC = CaptchaSpec(charset="012", length=2, width=16, height=32, channels=1)
RUN = SUPPORT / "worker_run.py"
LABELS = [f"{a}{b}" for a in "012" for b in "012"]
EPOCHS = 3


def _rows(seeds: range) -> list[bytes]:
    return [emitted(encode(draw(SPEC, label, seed)), label, SPEC) for seed in seeds for label in LABELS]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformed")
    transform(SPEC, {"train": _rows(range(16)), "eval": _rows(range(20, 23))}, folder)  # 144 records: complete batches; 27: unequal shares
    return folder


def fn_args(transformed: Path, folder: Path, strategy: str, base: Path | None = None) -> Path:
    """Writes the arguments of a fit that writes to `folder`; with a `base` it starts from that model, for one epoch."""
    # At a higher rate the nine steps of the warm start overshoot, and rounding alone changes which pictures are read.
    warm = WarmStart(epochs=1, learning_rate=2e-4)
    trainer = Hyperparameters(
        epochs=EPOCHS, batch_size=16, learning_rate=1e-3, warmup=1 / 6, precision="float32", warm_start=warm
    ).model_dump()
    path = folder / "fn_args.json"
    # No shift, because each worker draws its own shifts.
    arguments = trainer_arguments(transformed, folder, folder / "checkpoints", SPEC, trainer | {"strategy": strategy, "shift": 0}, base)
    write_fn_args(arguments, path)
    assert read_fn_args(path) == arguments
    return path


def start(arguments: Path, *more: str, cluster: Mapping[str, Any] | None = None) -> subprocess.Popen[str]:
    environment = os.environ | ({"TF_CONFIG": json.dumps(cluster)} if cluster else {})
    command = [sys.executable, "-u", str(RUN), str(arguments), *more]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_cluster(arguments: Path) -> list[subprocess.Popen[str]]:
    """Starts a chief and a worker, with the names that Kubeflow's training operator uses."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("localhost", 0))
        second.bind(("localhost", 0))
        chief, worker = (f"localhost:{taken.getsockname()[1]}" for taken in (first, second))
    tasks = [{"type": "chief", "index": 0}, {"type": "worker", "index": 0}]
    cluster = {"chief": [chief], "worker": [worker]}
    return [start(arguments, cluster={"cluster": cluster, "task": task, "environment": "cloud"}) for task in tasks]


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Yields a list of processes that are killed when the test ends."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def history(folder: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in json.loads((folder / "logs" / HISTORY_FILE).read_text())
    ]


@pytest.fixture(scope="module")
def alone(transformed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a fit on one device."""
    folder = tmp_path_factory.mktemp("alone") / "fit"
    finish(start(fn_args(transformed, folder, "auto")))
    return folder


def assert_same(folder: Path, alone: Path, epochs: int = EPOCHS) -> None:
    ours, theirs = history(folder), history(alone)
    assert len(ours) == len(theirs) == epochs
    for row, expected in zip(ours, theirs, strict=True):
        # It is measured at the best temperature for the eval split, which increases differences, most of all in misread pictures.
        assert row.pop(JUDGED_BY) == pytest.approx(expected.pop(JUDGED_BY), rel=0.02, abs=2e-3)
        assert row == pytest.approx(expected, rel=2e-3)  # rounding grows with each step
    np.testing.assert_allclose(probabilities(folder), probabilities(alone), atol=0.02)  # the temperature increases differences


def probabilities(folder: Path) -> np.ndarray:
    model = tf.saved_model.load(str(folder / "model"))
    return model.signatures["serving_default"](image=tf.constant([encode(draw(SPEC, label, 99)) for label in LABELS]))[
        PROBABILITIES
    ].numpy()


def test_two_workers_with_a_warm_start_train_as_one_device(
    transformed: Path, tmp_path: Path, alone: Path, ended: list[subprocess.Popen[str]]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(start(fn_args(transformed, one, "auto", alone / "model")))
    ended += start_cluster(fn_args(transformed, two, "multi_worker", alone / "model"))
    for process in ended:
        finish(process)
    assert_same(two, one, epochs=1)
    about = [json.loads((folder / "model" / "assets.extra" / SPEC_FILE).read_text()) for folder in (one, two)]
    assert about[0] == about[1]
    assert about[0]["warm_start"] is True


def test_two_devices_of_a_machine_train_as_one(transformed: Path, tmp_path: Path, alone: Path, ended: list[subprocess.Popen[str]]) -> None:
    folder = tmp_path / "fit"
    ended.append(start(fn_args(transformed, folder, "auto"), "2"))
    finish(ended[0])
    assert_same(folder, alone)


def test_two_workers_resumed_after_a_kill_train_as_one_device(
    transformed: Path, tmp_path: Path, alone: Path, ended: list[subprocess.Popen[str]]
) -> None:
    """The epochs before the kill are in the history, and the later epochs start from their weights."""
    folder = tmp_path / "fit"
    arguments = fn_args(transformed, folder, "multi_worker")
    chief, worker = start_cluster(arguments)
    ended += [chief, worker]
    assert chief.stdout is not None
    for line in chief.stdout:
        if line.startswith("epoch 2/"):
            break
    os.kill(worker.pid, signal.SIGKILL)
    output, _ = chief.communicate(timeout=600)
    assert chief.returncode != 0, output  # the operator restarts it
    before = len(events := list((folder / "tensorboard").rglob("events.out.tfevents*")))
    assert before == 2, events  # files of the chief, for train and for eval
    again = start_cluster(arguments)
    ended += again
    chief_says, worker_says = map(finish, again)
    assert "resuming after epoch " in chief_says
    assert f"epoch {EPOCHS}/{EPOCHS}: loss" in chief_says
    assert "epoch" not in worker_says
    assert_same(folder, alone)
    assert len(list((folder / "tensorboard").rglob("events.out.tfevents*"))) == 2 * before
    assert list((folder / "checkpoints").glob(f"*/epoch-{EPOCHS:06d}")), "the chief's"
