"""Saves the state of a fit after each epoch, so that a kill costs at most one epoch, and decides when a fit ends."""

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import keras

from components.base.features import WEIGHTS_FILE
from components.base.files import publish
from components.serving.weights import save_weights
from components.training.calibration import CalibratedCrossEntropy

_LOG: Final = logging.getLogger(__name__)
_STATE: Final = "state.json"
_FITS: Final = 3  # the number of fits whose checkpoints are kept
_LEARNT: Final = 0.1
# Pictures in the eval split. Among twenty, one wrong label decides: its cross-entropy rises as the model becomes surer, so that the first
# epoch looks best. With fewer pictures than this, the last epoch is exported, at which the learning rate has fallen to 0 (docs/recipe.md).
ENOUGH_TO_CHOOSE: Final = 500
# Accuracy is too coarse to choose an epoch: a good model misreads four of two thousand pictures, give or take two, so that an epoch in the
# middle of the schedule can be the best by luck. The cross-entropy measures how well each character is read. It is that of the model as it
# would be exported, without label smoothing and at the best temperature, so that fits with different label smoothing can be compared.
JUDGED_BY: Final = f"val_{CalibratedCrossEntropy.NAME}"


class Progress(keras.callbacks.Callback):
    """Tracks a fit, determines its best epoch, and stops the fit early.

    Attributes:
      epoch: the number of completed epochs.
      epochs: the planned number of epochs.
      history: one row per completed epoch: `loss`, the metrics, both of the eval split with the prefix `val_`, JUDGED_BY and `seconds`.
    """

    def __init__(self, epochs: int, patience: int | None, *, chooses: bool):
        """Args:
        epochs: the planned number of epochs.
        patience: the fit ends after this many epochs without a lower JUDGED_BY, None for never. It ends early only if JUDGED_BY has fallen
          by the share _LEARNT from its first value, because a fit can stay at chance for long before it learns.
        chooses: whether JUDGED_BY decides which epoch is the best, and when the fit ends. Otherwise the last epoch is the best, and
          `patience` has no effect.
        """
        super().__init__()
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self.epochs = epochs
        self._patience = patience if chooses else None
        self._chooses = chooses
        self._started = 0.0

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights are exported, counted from 1; 0 before the first epoch. See `best_epoch`."""
        return best_epoch(self.history, self._chooses)

    @property
    def finished(self) -> bool:
        """Whether no further epoch follows."""
        if self.epoch >= self.epochs or self._patience is None or not self.history:
            return self.epoch >= self.epochs
        first, best = (self.history[number - 1][JUDGED_BY] for number in (1, self.best_epoch))
        has_learnt = best < (1 - _LEARNT) * first
        return has_learnt and self.epoch - self.best_epoch >= self._patience

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {name: float(value) for name, value in (logs or {}).items()} | {"seconds": time.monotonic() - self._started}
        self.epoch = epoch + 1
        self.history = [*self.history, row]
        if self.finished:
            self.model.stop_training = True

    def say(self, line: str) -> None:
        """Reports progress. Does nothing here; `Checkpoint` prints the line."""


class Checkpoint(Progress):
    """Saves the state after the last completed epoch and after the best epoch in a folder, and prints progress.

    Keras' BackupAndRestore overwrites its file in place: a kill during the write leaves a partial file, on which the next run
    fails. Keras' EarlyStopping keeps the best weights in memory only. Here each epoch is a folder that appears by renaming, an
    unreadable folder is deleted, and the best epoch follows from the history.
    """

    def __init__(self, directory: Path, epochs: int, patience: int | None, *, chooses: bool, writes: bool = True):
        """Args:
        directory: of the saved state.
        epochs, patience, chooses: as for Progress.
        writes: False for a worker that only reads the state that another worker writes.
        """
        super().__init__(epochs, patience, chooses=chooses)
        self._directory = directory
        self._writes = writes

    def restore(self, build: Callable[[], keras.Model]) -> keras.Model:
        """Returns `build()`, a compiled model, with the newest readable state, if any exists."""
        planned = self.epochs
        for folder in sorted(self._directory.glob("epoch-*"), reverse=True):
            model = build()
            model.optimizer.build(model.trainable_variables)
            try:
                state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
                self.history, self.epoch, self.epochs = state["history"], len(state["history"]), state["epochs"]
                model.load_weights(self._folder(self.best_epoch) / WEIGHTS_FILE)  # a check, because the export needs it
                model.load_weights(folder / WEIGHTS_FILE)
                for variable, value in zip(_random_states(model), state["random"], strict=True):
                    variable.assign(value)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                self.history, self.epoch, self.epochs = [], 0, planned
                if self._writes:
                    _LOG.warning("The checkpoint %s cannot be read (%s). Training resumes from an older one or restarts.", folder, error)
                    shutil.rmtree(folder)
                continue
            self.say(f"resuming after epoch {self.epoch} of {self.epochs}")
            return model
        return build()

    def restore_best(self, model: keras.Model) -> None:
        """Loads the weights of the best epoch into the model."""
        model.load_weights(self._folder(self.best_epoch) / WEIGHTS_FILE)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self._writes:
            self._save()
        row = self.history[-1]
        self.say(
            f"epoch {self.epoch}/{self.epochs}: loss {row['loss']:.4f}, eval cross-entropy {row[JUDGED_BY]:.4f}, "
            f"eval full-sequence accuracy {row['val_sequence_accuracy']:.2%}, {row['seconds']:.0f} s"
        )

    def _folder(self, epoch: int) -> Path:
        return self._directory / f"epoch-{epoch:06d}"

    def _save(self) -> None:
        half = self._directory / "half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        save_weights(self.model, half / WEIGHTS_FILE)
        state = {
            "epochs": self.epochs,
            "history": self.history,
            "random": [variable.numpy().tolist() for variable in _random_states(self.model)],
        }
        (half / _STATE).write_text(json.dumps(state), encoding="utf-8")
        publish(half, self._folder(self.epoch))
        for folder in self._directory.glob("epoch-*"):
            if folder not in (self._folder(self.epoch), self._folder(self.best_epoch)):
                shutil.rmtree(folder)

    def say(self, line: str) -> None:
        """Prints a line, but only in the process that writes."""
        if self._writes:
            print(line, flush=True)


def best_epoch(history: Sequence[Mapping[str, float]], chooses: bool) -> int:
    """Returns the epoch of a fit's history that is exported, counted from 1; 0 if there is none.

    Args:
      history: a row for each completed epoch.
      chooses: True for the first epoch with the lowest JUDGED_BY; False for the last epoch that has not diverged.
    """
    values = [math.inf if math.isnan(row[JUDGED_BY]) else row[JUDGED_BY] for row in history]
    if chooses:
        return 1 + values.index(min(values)) if values else 0
    return max((number for number, value in enumerate(values, start=1) if value < math.inf), default=min(1, len(values)))


def remove_old(directory: Path, keep: str) -> None:
    """Removes the checkpoints of all but the newest few fits, so that they do not fill the disk.

    A fit does not remove its own checkpoints at its end: its outputs are safe only once the runner has published them, which on Kubeflow
    happens after the process has ended. Until then a rerun finds the completed fit and exports at once.

    Args:
      directory: contains a folder for each fit.
      keep: the name of the fit whose folder is always kept.
    """
    others = [folder for folder in directory.iterdir() if folder.name != keep] if directory.is_dir() else []
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)[_FITS - 1 :]:
        shutil.rmtree(folder, ignore_errors=True)


def _random_states(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables that Keras omits from a weights file: the states of dropout's random number generators."""
    weights = {id(variable) for variable in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]
