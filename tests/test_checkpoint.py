"""A fit that is killed and run again, on a model of one layer."""

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest

from components.checkpoint import Checkpoint
from components.features import WEIGHTS_FILE

EPOCHS = 4
INPUTS = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
TARGETS = INPUTS.sum(axis=1, keepdims=True)


def build() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=[keras.metrics.MeanAbsoluteError(name="sequence_accuracy")], run_eagerly=True)
    return model


class Kill(keras.callbacks.Callback):
    """Stops the fit after an epoch, as nothing that a fit expects does."""

    def __init__(self, epoch: int):
        super().__init__()
        self._last = epoch - 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch == self._last:
            raise SystemExit


def fit(folder: Path, *more: keras.callbacks.Callback) -> tuple[Checkpoint, keras.Model]:
    checkpoint = Checkpoint(folder, EPOCHS)
    model = checkpoint.restore(build)
    data = (INPUTS, TARGETS)
    model.fit(*data, 16, EPOCHS, 0, [checkpoint, *more], validation_data=data, shuffle=False, initial_epoch=checkpoint.epoch)
    return checkpoint, model


def kill(folder: Path, epoch: int) -> Path:
    """Fits up to an epoch; returns the folder of its state."""
    with pytest.raises(SystemExit):
        fit(folder, Kill(epoch))
    (state,) = folder.iterdir()
    return state


@pytest.mark.parametrize("epoch", [2, EPOCHS])
def test_a_killed_fit_ends_as_one_that_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int) -> None:
    whole, expected = fit(tmp_path / "whole")
    assert kill(tmp_path / "killed", epoch).name == f"epoch-{epoch:06d}"
    capsys.readouterr()
    checkpoint, model = fit(tmp_path / "killed")
    assert capsys.readouterr().out.startswith(f"going on after epoch {epoch} of {EPOCHS}\n")
    assert checkpoint.epoch == EPOCHS
    # Weights and the optimizer's state are there: the rest of the fit is the same, bit by bit.
    for ours, theirs in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["loss"] for row in checkpoint.history] == [row["loss"] for row in whole.history]
    assert all(after["loss"] < before["loss"] for before, after in itertools.pairwise(checkpoint.history))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_file_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture, share: float) -> None:
    weights = kill(tmp_path / "killed", 1) / WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[: int(share * len(content))])
    checkpoint, _ = fit(tmp_path / "killed")
    assert len(checkpoint.history) == EPOCHS
    assert "cannot be read" in caplog.text


def test_a_kill_while_saving_keeps_the_epoch_before(tmp_path: Path) -> None:
    kill(tmp_path, 2)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / WEIGHTS_FILE).write_bytes(b"\x89HDF")
    checkpoint = Checkpoint(tmp_path, EPOCHS)
    checkpoint.restore(build)
    assert checkpoint.epoch == 2


def test_delete_leaves_nothing(tmp_path: Path) -> None:
    checkpoint, _ = fit(tmp_path / "whole")
    checkpoint.delete()
    assert not (tmp_path / "whole").exists()
    checkpoint.delete()
