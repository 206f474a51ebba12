"""The weights file beside an exported model, which a warm start reads, and in a checkpoint."""

import math
import os
from pathlib import Path
from typing import Final

import keras

from components.base.features import WEIGHTS_FILE

_HDF5_ENTRY: Final = 4096  # bytes of overhead per variable; about half of it is needed


def export(model: keras.Model, folder: Path) -> None:
    """Writes the weights into `folder`, see components/serving/exports.py. Raises OSError like `save_weights`."""
    save_weights(model, folder / WEIGHTS_FILE)


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights of a model, and the state of its optimizer if it is compiled.

    Raises:
      OSError: the disk is full. The space is reserved first, because HDF5, which Keras writes with, would crash the process.
    """
    variables = [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]
    room = sum(_HDF5_ENTRY + 4 * math.prod(variable.shape) for variable in variables)
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, room)
        except OSError:
            path.unlink()
            raise
    model.save_weights(path)
