"""Fits to some pictures of a set, without a pipeline run."""

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

    Raises:
      LabelError: a label does not belong to the spec.
    """
    from components.training.cross_validation import fit_to_file

    with tempfile.TemporaryDirectory() as directory:
        paths = Path(directory, "train.gz"), Path(directory, "others.gz")
        write(others, spec, paths[1], write(train, spec, paths[0]))
        return fit_to_file(*paths, spec, parameters)


def write(
    pictures: Sequence[Labelled], spec: CaptchaSpec, path: Path, statistics: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Writes pictures as Transform's features; see `components.training.untransformed.write_examples`."""
    from components.training.untransformed import write_examples

    return write_examples([(picture.path.read_bytes(), spec.canonical(picture.label)) for picture in pictures], spec, path, statistics)


def without_labels(pictures: Sequence[Labelled], folder: Path) -> Path:
    """Copies pictures into a new folder, under names that are their numbers; returns the folder."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        shutil.copy(picture.path, folder / f"{number:05d}{picture.path.suffix}")
    return folder
