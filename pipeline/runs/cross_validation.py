"""Fits models to parts of a run's examples: to cross-validate a configuration, and to extrapolate its learning curve."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from components.base.errors import CaptchaPipelineError
from components.base.features import DRAWN, IS_DRAWN, PIXELS, PSEUDO, SOURCE, SPLITS
from components.data.example_proto import Example
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

    confidence = config.evaluator.confidence
    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        files = [*chain.from_iterable(labelled_by_people(config, run, Path(directory)).values())]
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

    with all_splits_transformed(config, run) as (by_split, directory):
        files = [*chain.from_iterable(by_split.values())]
        fits = learning_curve(files, config.captcha, config.trainer, directory, on_fit)
        labels, fitted = count_records(files), count_records(by_split[SPLITS[0]])
    return Plan(labels, fitted / labels, LearningCurve(fits))


@contextmanager
def all_splits_transformed(config: Config, run: RunRecord) -> Iterator[tuple[dict[str, list[str]], Path]]:
    """Gives the files of a run's transformed examples by split, and a temporary folder. Both are for use inside the `with` block.

    Of train and eval, examples that cannot judge a model are left out: see `labelled_by_people`. Transform writes no test split, so this
    function transforms it.

    Raises:
      CaptchaPipelineError: the run has no examples, or its section `captcha` differs from that of `config`.
    """
    from components.training.untransformed import transform_like

    with tempfile.TemporaryDirectory(dir=config.root) as directory:
        by_split = labelled_by_people(config, run, Path(directory))
        test = Path(directory, "test.gz")
        transform_like(by_split[SPLITS[1]][0], examples(run, SPLITS[2]), config.captcha, background_of(run), test)
        yield by_split | {SPLITS[2]: [str(test)]}, Path(directory)


def labelled_by_people(config: Config, run: RunRecord, directory: Path) -> dict[str, list[str]]:
    """Returns the files of a run's transformed examples of the train and the eval split, without those that cannot judge a model.

    A label of `captcha-pipeline data pseudo` says what models read, so it cannot show whether a model is right. Drawn pictures do not show
    how well a model reads those that people have labelled; they are kept only if the run has no others.

    Args:
      config: gives the section `captcha`.
      run: the run.
      directory: a folder for a file with the remaining examples of the train split, if some cannot judge.

    Raises:
      CaptchaPipelineError: the run has no examples, or its section `captcha` differs from that of `config`.
    """
    import tensorflow as tf

    from components.training.cross_validation import pixels_key
    from components.training.untransformed import decoded

    train, evaluated = SPLITS[:2]
    by_split = {split: transformed_examples(config, run, split) for split in (train, evaluated)}
    files = examples(run, train)
    excluded = excluded_sources(run) & set(map(source_of, _parsed(files)))
    if not excluded:
        return by_split
    # Transform says which of its examples are drawn, but not which ones models have labelled.
    pseudo = {
        pixels_key(pixels)
        for example, pixels in (decoded(files, config.captcha, background_of(run)) if PSEUDO in excluded else ())
        if source_of(example) == PSEUDO
    }
    kept = str(directory / "labelled.gz")
    with tf.io.TFRecordWriter(kept, "GZIP") as writer:
        for record in tf.data.TFRecordDataset(by_split[train], "GZIP").as_numpy_iterator():
            feature = Example.FromString(record).features.feature
            drawn = DRAWN in excluded and list(feature[IS_DRAWN].int64_list.value) == [1]
            if not drawn and not (pseudo and pixels_key(feature[PIXELS].bytes_list.value[0]) in pseudo):
                writer.write(record)
    return by_split | {train: [kept]}


def excluded_sources(run: RunRecord) -> frozenset[str]:
    """Returns the sources whose examples cannot judge a model: see `labelled_by_people`.

    Raises:
      CaptchaPipelineError: the run has no examples.
    """
    by_people = any(source_of(example) != DRAWN for example in _parsed(examples(run, SPLITS[1])))
    return frozenset((PSEUDO, DRAWN) if by_people else (PSEUDO,))


def source_of(example: Example) -> str:
    """Returns the source of an example of CaptchaExampleGen."""
    (source,) = example.features.feature[SOURCE].bytes_list.value
    return str(source, "utf-8")


def _parsed(files: Sequence[str]) -> Iterator[Example]:
    import tensorflow as tf

    return map(Example.FromString, tf.data.TFRecordDataset(list(files)).as_numpy_iterator())


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
