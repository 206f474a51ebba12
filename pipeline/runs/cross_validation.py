"""Fits models to parts of a run's examples: to cross-validate a configuration, and to extrapolate its learning curve."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from components.base.errors import CaptchaPipelineError
from components.base.features import SPLITS
from components.evaluation.metrics import Results
from pipeline.config.config import Config
from pipeline.runs.history import RunRecord

if TYPE_CHECKING:
    from components.evaluation.learning_curve import Fitted, LearningCurve


def cross_validation(config: Config, run: RunRecord, folds: int, on_fold: Callable[[Results], None]) -> Results:
    """Measures a configuration, rather than one model, with `components.training.cross_validation.cross_validate`.

    Args:
      config: gives the trainer's settings and the confidence of the intervals.
      run: the run whose transformed examples of the train and eval splits are used. The test split is not used: it must stay unseen, to
        measure the model that a person chooses from these results.
      folds: the number of fits.
      on_fold: called after each fit with the results so far.

    Returns:
      The results over all folds.

    Raises:
      CaptchaPipelineError: the run has no transformed examples, has too few, or its section `captcha` differs from that of `config`.
    """
    from components.training.cross_validation import cross_validate

    files = [file for split in SPLITS[:2] for file in transformed_examples(config, run, split)]
    confidence = config.evaluator.confidence
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        counts = cross_validate(
            files, config.captcha, config.trainer, folds, Path(directory), lambda counted: on_fold(counted.results(confidence))
        )
    return counts.results(confidence)


@dataclass(frozen=True)
class Plan:
    """What to expect from more labels.

    Attributes:
      labels: the number of labels in all splits now.
      trained_on: the share of the labels that is in the train split, 0 to 1.
      curve: the accuracy by the number of pictures in the train split.
    """

    labels: int
    trained_on: float
    curve: "LearningCurve"


def plan(config: Config, run: RunRecord, on_fit: Callable[["Fitted"], None]) -> Plan:
    """Fits models to parts of the labels, and extrapolates their accuracy.

    All splits are used, even test: no model is chosen from the results, and with few labels each picture counts.

    Args:
      config: gives the trainer's settings.
      run: the run whose examples are used.
      on_fit: called after each fit with its result.

    Raises:
      CaptchaPipelineError: the run has no examples, has too few, or its section `captcha` differs from that of `config`.
    """
    from components.evaluation.learning_curve import LearningCurve
    from components.training.batches import count_records
    from components.training.cross_validation import learning_curve

    with all_splits_transformed(config, run) as (files, directory):
        fits = learning_curve(files, config.captcha, config.trainer, directory, on_fit)
        labels, fitted = count_records(files), count_records(transformed_examples(config, run, SPLITS[0]))
    return Plan(labels, fitted / labels, LearningCurve(fits))


@contextmanager
def all_splits_transformed(config: Config, run: RunRecord) -> Iterator[tuple[list[str], Path]]:
    """Gives the files of a run's transformed examples of all splits, and a temporary folder. Both are for use inside the `with` block.

    Transform writes no test split, so this function transforms it.

    Raises:
      CaptchaPipelineError: the run has no examples, or its section `captcha` differs from that of `config`.
    """
    from components.training.untransformed import transform_like

    files = [file for split in SPLITS[:2] for file in transformed_examples(config, run, split)]
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        test = Path(directory, "test.gz")
        transform_like(files[0], examples(run, SPLITS[2]), config.captcha, background_of(run), test)
        yield [*files, str(test)], Path(directory)


def examples(run: RunRecord, split: str) -> list[str]:
    """Returns the files with the examples of a split that CaptchaExampleGen has written.

    Raises:
      CaptchaPipelineError: the run has no examples.
    """
    from components.training.batches import record_files

    folder = run.artifact_uri("CaptchaExampleGen", "examples")
    if folder is None or not Path(folder).is_dir():
        raise CaptchaPipelineError(f"Run {run.run_id} has no examples. Run `captcha-pipeline run` first.")
    return record_files([str(Path(folder, f"Split-{split}", "*"))], split)


def background_of(run: RunRecord) -> tuple[int, ...]:
    """Returns the colour of transparent pixels in a run, RGB, 0 to 255."""
    return tuple(yaml.safe_load(run.configuration)["data"]["background"])


def transformed_examples(config: Config, run: RunRecord, split: str) -> list[str]:
    """Returns the files with the transformed examples of the train or the eval split of a run.

    Raises:
      CaptchaPipelineError: the run has no transformed examples, or its section `captcha` differs from that of `config`.
    """
    from components.training.batches import record_files

    folder = run.artifact_uri("Transform", "transformed_examples")
    if folder is None or not Path(folder).is_dir():
        raise CaptchaPipelineError(f"Run {run.run_id} has no transformed examples. Run `captcha-pipeline run` first.")
    if (yaml.safe_load(run.configuration) or {}).get("captcha") != config.captcha.model_dump(mode="json"):
        raise CaptchaPipelineError(
            "The section captcha of the configuration differs from that of the latest complete run. Run `captcha-pipeline run` first."
        )
    return record_files([str(Path(folder, f"Split-{split}", "*"))], split)
