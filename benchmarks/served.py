"""A served model and pictures to read with it, for benchmarks whose figures do not depend on the weights."""

from pathlib import Path
from typing import Final

from benchmarks.tasks import Task, command
from components.serving import serving_dir

_TASK: Final = Task("digits-served", "digits", 3_000, "{train: 4, eval: 1, test: 1}", seed=3)
_OVERRIDES: Final = ("trainer.epochs=1", "evaluator.min_sequence_accuracy=0", "evaluator.max_regression=1")


def options() -> list[str]:
    """Returns the command-line options of the pipeline that makes the model."""
    return _TASK.options(*_OVERRIDES)


def pushed_model() -> Path:
    """Returns the folder of a model that the whole pipeline made with the current code, in one epoch."""
    config = _TASK.config(*_OVERRIDES)
    command("run", *options())
    return serving_dir.versions(config.serving_dir)[0].path


def pictures(count: int) -> list[bytes]:
    """Returns the first `count` encoded pictures of the test split."""
    return [picture.encoded for picture in _TASK.pictures("test", count)]
