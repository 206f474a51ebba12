"""The file of weights beside an exported model, from which a warm start resumes, and in a checkpoint."""

import math
import os
from pathlib import Path
from typing import Final

import keras

_HDF5_ENTRY: Final = 4096  # bytes around the values of a variable; about half of it is needed


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights of a model, and the state of its optimizer if it is compiled.

    Raises:
      OSError: there is no room for them. HDF5, with which Keras writes, would crash the process: room is asked for first.
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
