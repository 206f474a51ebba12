"""A fit that is killed and run again, on a model of one layer."""

import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import pytest

from components.base.features import WEIGHTS_FILE
from components.training.checkpoint import JUDGED_BY, Checkpoint

pytestmark = pytest.mark.slow

EPOCHS = 4
INPUTS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
TARGETS = INPUTS.sum(axis=1, keepdims=True)


def build() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.2), keras.layers.Dense(1)])
    accuracy = keras.metrics.MeanMetricWrapper(lambda y, p: -keras.ops.abs(y - p), name="sequence_accuracy")
    judged_by = keras.metrics.MeanSquaredError(name="cross_entropy")
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=[accuracy, judged_by], run_eagerly=True)
    return model


class Kill(keras.callbacks.Callback):
    """Stops the fit after an epoch with an exception that no fit expects."""

    def __init__(self, epoch: int):
        super().__init__()
        self._last = epoch - 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == self._last:
            raise SystemExit


def fit(folder: Path, *more: keras.callbacks.Callback) -> tuple[Checkpoint, keras.Model]:
    checkpoint = Checkpoint(folder, EPOCHS, patience=EPOCHS, chooses=True)
    model = checkpoint.restore(build)
    data = (INPUTS, TARGETS)
    model.fit(*data, 16, EPOCHS, 0, [checkpoint, *more], validation_data=data, shuffle=False, initial_epoch=checkpoint.epoch)
    return checkpoint, model


def kill(folder: Path, epoch: int) -> Path:
    """Fits up to an epoch; returns the folder of its state."""
    with pytest.raises(SystemExit):
        fit(folder, Kill(epoch))
    return max(folder.iterdir())


@pytest.mark.parametrize("epoch", [2, EPOCHS])
def test_a_resumed_fit_ends_like_an_uninterrupted_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int) -> None:
    whole, expected = fit(tmp_path / "whole")
    assert kill(tmp_path / "killed", epoch).name == f"epoch-{epoch:06d}"
    capsys.readouterr()
    checkpoint, model = fit(tmp_path / "killed")
    assert capsys.readouterr().out.startswith(f"resuming after epoch {epoch} of {EPOCHS}\n")
    assert checkpoint.epoch == EPOCHS
    # Weights, optimizer state and the random numbers of dropout are restored: the rest of the fit is equal bit by bit.
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["loss"] for row in checkpoint.history] == [row["loss"] for row in whole.history]
    assert checkpoint.history[-1]["val_loss"] < checkpoint.history[0]["val_loss"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_starts_the_fit_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float) -> None:
    weights = kill(tmp_path / "killed", 1) / WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    checkpoint, _ = fit(tmp_path / "killed")
    assert len(checkpoint.history) == EPOCHS
    assert "cannot be read" in caplog.text


def test_a_kill_while_saving_keeps_the_previous_epoch(tmp_path: Path) -> None:
    kill(tmp_path, 2)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / WEIGHTS_FILE).write_bytes(b"\x89HDF")
    checkpoint = Checkpoint(tmp_path, EPOCHS, patience=EPOCHS, chooses=True)
    checkpoint.restore(build)
    assert checkpoint.epoch == 2


def epochs(checkpoint: Checkpoint, values: Sequence[float]) -> keras.Model:
    """Simulates epochs with these cross-entropies on the eval split; after epoch N all weights are N."""
    model = checkpoint.restore(build)
    checkpoint.set_model(model)
    for epoch, value in enumerate(values, start=checkpoint.epoch):
        assert not model.stop_training
        model.set_weights([np.full_like(weight, epoch + 1) for weight in model.get_weights()])
        checkpoint.on_epoch_begin(epoch)
        checkpoint.on_epoch_end(epoch, {"loss": 1.0, "val_loss": 1.0, JUDGED_BY: value, "val_sequence_accuracy": 1.0})
    return model


def test_early_stopping_and_the_best_weights_survive_a_kill(tmp_path: Path) -> None:
    epochs(Checkpoint(tmp_path, 9, patience=3, chooses=True), [0.9, 0.5, 0.6, 0.5])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-000002", "epoch-000004"]
    resumed = Checkpoint(tmp_path, 9, patience=3, chooses=True)
    model = epochs(resumed, [math.nan])
    assert model.stop_training
    assert (resumed.epoch, resumed.best_epoch, resumed.finished) == (5, 2, True)
    resumed.restore_best(model)
    assert {float(value) for weight in model.get_weights() for value in weight.ravel()} == {2.0}
    # A fit killed between its end and its export does not continue.
    again = Checkpoint(tmp_path, 9, patience=3, chooses=True)
    again.restore(build)
    assert again.finished


def test_a_fit_that_has_not_learnt_yet_does_not_stop_early(tmp_path: Path) -> None:
    """With few pictures a fit can be at chance for many epochs."""
    progress = Checkpoint(tmp_path, 9, patience=2, chooses=True)
    model = epochs(progress, [2.30, 2.31, 2.29, 2.31, 2.32, 2.20])
    assert not model.stop_training
    model = epochs(Checkpoint(tmp_path, 9, patience=2, chooses=True), [1.9, 2.0, 1.95])
    assert model.stop_training


def test_a_fit_without_patience_runs_to_the_last_epoch(tmp_path: Path) -> None:
    assert epochs(Checkpoint(tmp_path, 6, patience=None, chooses=True), [0.9, 0.2, 0.6, 0.6, 0.6, 0.6]).stop_training


def test_with_few_eval_pictures_the_last_epoch_is_exported(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, 5, patience=1, chooses=False)
    model = epochs(checkpoint, [0.1, 0.5, 0.6, 0.7, math.nan])
    assert (checkpoint.best_epoch, checkpoint.finished) == (4, True)
    checkpoint.restore_best(model)
    assert {float(value) for weight in model.get_weights() for value in weight.ravel()} == {4.0}


def test_a_fit_without_its_best_weights_starts_over(tmp_path: Path) -> None:
    epochs(Checkpoint(tmp_path, 9, patience=9, chooses=True), [0.9, 0.5, 0.6])
    (tmp_path / "epoch-000002" / WEIGHTS_FILE).unlink()
    checkpoint = Checkpoint(tmp_path, 9, patience=9, chooses=True)
    checkpoint.restore(build)
    assert (checkpoint.epoch, checkpoint.best_epoch, list(tmp_path.iterdir())) == (0, 0, [])


def test_a_worker_that_writes_no_checkpoints_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    epochs(Checkpoint(tmp_path, 9, patience=9, chooses=True), [0.9, 0.5])
    capsys.readouterr()
    reader = Checkpoint(tmp_path, 9, patience=9, chooses=True, writes=False)
    epochs(reader, [0.4])
    assert reader.epoch == 3
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000002"]
    (tmp_path / "epoch-000002" / WEIGHTS_FILE).write_bytes(b"")
    Checkpoint(tmp_path, 9, patience=9, chooses=True, writes=False).restore(build)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-000002"]
    assert capsys.readouterr().out == ""
