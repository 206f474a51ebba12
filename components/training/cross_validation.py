"""Reads pictures with models that were not fitted to them: in folds, or after fits to growing parts of the pictures."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import softmax

from components.base.errors import CaptchaPipelineError
from components.base.features import PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.learning_curve import Fitted
from components.evaluation.metrics import ReadingCounts
from components.training.batches import evaluation_batches
from components.training.checkpoint import Progress
from components.training.devices import choose_strategy
from components.training.hyperparameters import Hyperparameters
from components.training.run_fn import EVALUATION_BATCH, Examples, check_batch_size, compiled_model, fit_to

_PARTS: Final = 8  # of a learning curve
_WIDTHS: Final = (1, 2, 4)  # of these parts, in the fits of a learning curve
# The number of fits for each width, up to a number of pictures. Two fits to 40 of 300 pictures differ by much.
_DRAWS: Final = ((1_000, 4), (4_000, 2))
_FEWEST: Final = 10 * _PARTS


def pixels_key(pixels: bytes) -> bytes:
    """Returns what identifies a picture after Transform, 32 bytes. Pictures with the same PIXELS are the same picture for a model."""
    return hashlib.sha256(pixels).digest()


@dataclass(frozen=True)
class Readings:
    """How models read N pictures that they were not fitted to.

    Attributes:
      keys: the `pixels_key` of each picture.
      labels: int64 [N, max_length], the class ids of the labels.
      logits: float32 [N, max_length, num_classes], not calibrated.
    """

    keys: tuple[bytes, ...]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """float32 [N, max_length, num_classes], not calibrated."""
        probabilities: npt.NDArray[np.float32] = softmax(self.logits, axis=-1)
        return probabilities


@dataclass(frozen=True)
class _Part:
    """A part of the pictures: a file of transformed examples, and their keys in the order of the file."""

    path: Path
    keys: tuple[bytes, ...]


def cross_validate(
    files: Sequence[str],
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    folds: int,
    directory: Path,
    on_fold: Callable[[ReadingCounts], None],
) -> ReadingCounts:
    """Measures how well a recipe reads where pictures are few. Confidences are not calibrated.

    Args:
      files, spec, parameters, folds, directory: as for `out_of_fold`.
      on_fold: called after each fold with the counts so far.

    Returns:
      The counts over all pictures.

    Raises:
      CaptchaPipelineError: as `out_of_fold`.
    """
    counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    for fold in out_of_fold(files, spec, parameters, folds, directory):
        counted.add(fold.labels, fold.probabilities)
        on_fold(counted)
    return counted


def out_of_fold(files: Sequence[str], spec: CaptchaSpec, parameters: Hyperparameters, folds: int, directory: Path) -> Iterator[Readings]:
    """Divides pictures into folds. For each fold, fits a model to the other folds, and yields how it reads the fold.

    The method is cross-validation (Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974). Pictures with the
    same pixels are in the same fold. The weights after the last epoch are used, because choosing an epoch by the fold that is then measured
    would flatter the model.

    Args:
      files: gzipped TFRecords of Transform's features.
      spec: what the models read.
      parameters: how to fit. `patience` is ignored.
      folds: the number of folds.
      directory: a folder for temporary files.

    Raises:
      CaptchaPipelineError: a fold has no picture, the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    strategy = choose_strategy(parameters.strategy)
    parts = _divide(files, folds, directory)
    if not all(part.keys for part in parts):
        count = sum(len(part.keys) for part in parts)
        raise CaptchaPipelineError(f"{count} pictures are too few for {folds} folds: one would be empty. Use fewer folds.")
    for held_out in parts:
        yield _fit_and_read([part for part in parts if part != held_out], [held_out], spec, parameters, strategy)


def learning_curve(
    files: Sequence[str], spec: CaptchaSpec, parameters: Hyperparameters, directory: Path, on_fit: Callable[[Fitted], None]
) -> list[Fitted]:
    """Fits models to an eighth, a quarter and a half of the pictures, and counts how they read all others.

    A larger part contains a smaller one, so that the curve shows the number of pictures rather than which pictures they are. With few
    pictures there are several fits of each size, each to other pictures.

    Args:
      files, spec, parameters, directory: as for `out_of_fold`.
      on_fit: called after each fit with its result.

    Returns:
      The result of each fit.

    Raises:
      CaptchaPipelineError: there are too few pictures, the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    strategy = choose_strategy(parameters.strategy)
    parts = _divide(files, _PARTS, directory)
    count = sum(len(part.keys) for part in parts)
    if count < _FEWEST or not all(part.keys for part in parts):
        raise CaptchaPipelineError(f"{count} pictures are too few to fit models to an eighth of them. Label at least {_FEWEST} pictures.")
    draws = next((draws for most, draws in _DRAWS if count <= most), 1)
    results = []
    for width in _WIDTHS:
        for first in range(0, _PARTS, _PARTS // draws):
            # From a place on, in a circle: the parts of a smaller width are the first of a larger one.
            turned = [*parts[first:], *parts[:first]]
            readings = _fit_and_read(turned[:width], turned[width:], spec, parameters, strategy)
            counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
            counted.add(readings.labels, readings.probabilities)
            fitted = sum(len(part.keys) for part in turned[:width])
            results.append(Fitted(fitted, counted.examples, counted.examples - counted.sequences_right))
            on_fit(results[-1])
    return results


def _fit_and_read(
    fitted: Sequence[_Part], held_out: Sequence[_Part], spec: CaptchaSpec, parameters: Hyperparameters, strategy: tf.distribute.Strategy
) -> Readings:
    """Fits a model to some parts, and reads others with it."""
    # The evaluation after each epoch decides nothing here, so one part is enough for it.
    examples = Examples([str(part.path) for part in fitted], [str(held_out[0].path)], sum(len(part.keys) for part in fitted))
    length = parameters.fit_length(examples.count)
    check_batch_size(parameters.batch_size, strategy.num_replicas_in_sync, examples.count)
    keras.backend.clear_session()
    keras.utils.set_random_seed(parameters.seed)
    with strategy.scope():
        model = compiled_model(spec, parameters, length.steps)
    fit_to(examples, model, spec, parameters, length, strategy, 0, [Progress(length.epochs, None)])
    reader = keras.Model(model.input, model.outputs[0])
    read = [
        (labels.numpy(), reader.predict_on_batch(images))
        for images, labels in evaluation_batches([str(part.path) for part in held_out], spec, EVALUATION_BATCH)
    ]
    labels, logits = (np.concatenate(column) for column in zip(*read, strict=True))
    return Readings(tuple(key for part in held_out for key in part.keys), labels, logits)


def _divide(files: Sequence[str], count: int, directory: Path) -> list[_Part]:
    """Writes each record to the file of its part, which the pixels of its picture decide."""
    paths = [directory / f"part-{number}.gz" for number in range(count)]
    keys: dict[Path, list[bytes]] = {path: [] for path in paths}
    writers = {path: tf.io.TFRecordWriter(str(path), "GZIP") for path in paths}
    for record in tf.data.TFRecordDataset(list(files), "GZIP").as_numpy_iterator():
        (pixels,) = tf.train.Example.FromString(record).features.feature[PIXELS].bytes_list.value
        key = pixels_key(pixels)
        path = paths[int.from_bytes(key[:8], "big") % count]
        writers[path].write(record)
        keys[path].append(key)
    for writer in writers.values():
        writer.close()
    return [_Part(path, tuple(keys[path])) for path in paths]
