"""Pushed models and pictures to read with them. Those of this module are for benchmarks whose figures do not depend on the weights."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.tasks import Task, command
from components.serving import serving_dir

_TASK: Final = Task("digits-served", "digits", 3_000, "{train: 4, eval: 1, test: 1}", seed=3)
_OTHER: Final = replace(_TASK, name="digits-served-2", changes=("data.root=data/benchmarks/digits-served", "trainer.seed=2"))
_OVERRIDES: Final = ("trainer.epochs=1", "evaluator.min_sequence_accuracy=0", "evaluator.max_regression=1")


def options() -> list[str]:
    """Returns the command-line options of the pipeline that makes the model."""
    return _TASK.options(*_OVERRIDES)


def pushed_model() -> Path:
    """Returns the folder of a model that the whole pipeline made with the current code, in one epoch."""
    return pushed_by(_TASK, *_OVERRIDES)


def other_model() -> Path:
    """Returns the folder of a model of the same pictures with another seed."""
    return pushed_by(_OTHER, *_OVERRIDES)


def pushed_by(task: Task, *overrides: str) -> Path:
    """Returns the folder of the model that the whole pipeline makes for a task with the current code."""
    config = task.config(*overrides)  # draws the pictures
    command("run", *task.options(*overrides))
    return serving_dir.versions(config.serving_dir)[0].path


def pictures(count: int) -> list[bytes]:
    """Returns the first `count` encoded pictures of the test split."""
    return [picture.encoded for picture in _TASK.pictures("test", count)]
