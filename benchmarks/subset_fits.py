"""Fits models to some pictures of a set, without a pipeline run."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.real_sets import Labelled
from components.data.captcha_spec import CaptchaSpec
from components.training.hyperparameters import Hyperparameters

if TYPE_CHECKING:  # imports TensorFlow
    from components.training.cross_validation import Readings


def fit_and_read(train: Sequence[Labelled], others: Sequence[Labelled], spec: CaptchaSpec, parameters: Hyperparameters) -> "Readings":
    """Fits a model to pictures, and returns how it reads others, in their order.

    Args:
      train: the pictures to fit to, with their labels.
      others: the pictures to read, with their labels.
      spec: the labels, and the size of the pictures.
      parameters: how to fit.

    Raises:
      LabelError: a label does not fit the spec.
    """
    from components.training.cross_validation import fit_to_file

    with tempfile.TemporaryDirectory() as directory:
        paths = Path(directory, "train.gz"), Path(directory, "others.gz")
        write(others, spec, paths[1], write(train, spec, paths[0]))
        return fit_to_file(*paths, spec, parameters)


def write(
    pictures: Sequence[Labelled], spec: CaptchaSpec, path: Path, statistics: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Writes labelled picture files with Transform's features; see `components.training.untransformed.write_examples`."""
    from components.training.untransformed import write_examples

    return write_examples([(picture.path.read_bytes(), spec.canonical(picture.label)) for picture in pictures], spec, path, statistics)


def without_labels(pictures: Sequence[Labelled], folder: Path) -> Path:
    """Copies pictures into a new folder, and returns the folder. The name of each file is the picture's index in the sequence."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        shutil.copy(picture.path, folder / f"{number:05d}{picture.path.suffix}")
    return folder
