"""What a fit leaves on disk after each epoch, so that a kill costs one epoch at most."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import keras

from components.features import WEIGHTS_FILE

_LOG: Final = logging.getLogger(__name__)
_HISTORY: Final = "history.json"


class Checkpoint(keras.callbacks.Callback):
    """Keeps weights, the optimizer's state and the history of the last finished epoch in a folder, and says how it goes.

    Keras' BackupAndRestore overwrites its file in place: a kill in the middle of it leaves half a file, on which the next run
    fails. Here each epoch is a folder that appears by renaming, and one that cannot be read is deleted.

    Attributes:
      epoch: the number of epochs finished.
      history: for each of them: `loss`, the metrics, the same of the eval split with `val_` before the name, and `seconds`.
    """

    def __init__(self, directory: Path, epochs: int):
        super().__init__()
        self.epoch = 0
        self.history: list[dict[str, float]] = []
        self._directory = directory
        self._epochs = epochs
        self._started = 0.0

    def restore(self, build: Callable[[], keras.Model]) -> keras.Model:
        """Returns `build()`, a compiled model, with the newest state that can be read, if there is any."""
        for folder in sorted(self._directory.glob("epoch-*"), reverse=True):
            model = build()
            try:
                history = json.loads((folder / _HISTORY).read_text(encoding="utf-8"))
                model.optimizer.build(model.trainable_variables)
                model.load_weights(folder / WEIGHTS_FILE)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                _LOG.warning("The checkpoint %s cannot be read (%s): training starts over.", folder, error)
                shutil.rmtree(folder)
                continue
            self.history, self.epoch = history, len(history)
            print(f"going on after epoch {self.epoch} of {self._epochs}", flush=True)
            return model
        return build()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {name: float(value) for name, value in (logs or {}).items()} | {"seconds": time.monotonic() - self._started}
        self.epoch = epoch + 1
        self.history = [*self.history, row]
        self._save()
        print(
            f"epoch {self.epoch}/{self._epochs}: loss {row['loss']:.4f}, eval loss {row['val_loss']:.4f}, "
            f"eval full-sequence accuracy {row['val_sequence_accuracy']:.2%}, {row['seconds']:.0f} s",
            flush=True,
        )

    def _save(self) -> None:
        half = self._directory / "half"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        self.model.save_weights(half / WEIGHTS_FILE)
        (half / _HISTORY).write_text(json.dumps(self.history), encoding="utf-8")
        previous = list(self._directory.glob("epoch-*"))
        os.rename(half, self._directory / f"epoch-{self.epoch:06d}")
        for folder in previous:
            shutil.rmtree(folder)

    def delete(self) -> None:
        """Removes what is on disk: the fit is over and its result is safe."""
        shutil.rmtree(self._directory, ignore_errors=True)
