"""Reads pictures with models that were not fitted to them: by cross-validation, or after fits to parts of growing size."""

import hashlib
import itertools
import time
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

PARTS: Final = 8  # into how many parts a learning curve divides the pictures, unless more are wanted
_WIDTHS: Final = (1, 2, 4)  # to how many of these parts the models of a learning curve are fitted
# Pairs: the largest number of pictures in PARTS parts, and the number of fits for each width. With more pictures than in the last pair
# there is one fit. With few pictures, fits differ a lot: for example, two fits to 40 of 300 pictures.
_DRAWS: Final = ((1_000, 4), (4_000, 2))
EACH: Final = 10  # the least mean number of pictures in a part
_READ: Final = 2_000  # this many pictures are enough to measure a fit to a small part


def pixels_key(pixels: bytes) -> bytes:
    """Returns a hash, 32 bytes, that identifies a picture after Transform. For a model, pictures with the same PIXELS are the same."""
    return hashlib.sha256(pixels).digest()


@dataclass(frozen=True)
class Readings:
    """How models read N pictures that they were not fitted to.

    Attributes:
      keys: the `pixels_key` of each picture, N of them.
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

    def counts(self, spec: CaptchaSpec) -> ReadingCounts:
        """Returns how many of the pictures are read right."""
        counts = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
        counts.add(self.labels, self.probabilities)
        return counts


@dataclass(frozen=True, eq=False)
class PartFit(Fitted):
    """A fit to a part of the pictures, and how it reads others.

    Attributes:
      share: about which share of all pictures the model was fitted to, 0 to 1.
      steps: the number of steps of the fit.
      cpu_seconds: the CPU time of the fit, in seconds, summed over all cores.
      counts: how the model read other pictures.
    """

    share: float
    steps: int
    cpu_seconds: float
    counts: ReadingCounts


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
    """Measures by cross-validation how well models read that are trained in this way. For few pictures. Confidences are not calibrated.

    Args:
      files, spec, parameters, folds, directory: as for `out_of_fold`.
      on_fold: called after each fold with the counts so far.

    Returns:
      The counts over all pictures.

    Raises:
      CaptchaPipelineError: as for `members`.
    """
    counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    for fold in out_of_fold(files, spec, parameters, folds, directory):
        counted.add(fold.labels, fold.probabilities)
        on_fold(counted)
    return counted


def out_of_fold(files: Sequence[str], spec: CaptchaSpec, parameters: Hyperparameters, folds: int, directory: Path) -> Iterator[Readings]:
    """Yields how each model of `members` reads the fold that it was not fitted to. The arguments and errors are those of `members`."""
    for _, readings in members(files, spec, parameters, folds, directory):
        yield readings


def members(
    files: Sequence[str], spec: CaptchaSpec, parameters: Hyperparameters, folds: int, directory: Path
) -> Iterator[tuple[keras.Model, Readings]]:
    """Divides pictures into folds. For each fold, fits a model to the other folds, and yields the model and how it reads the fold.

    The method is cross-validation (Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974). Pictures with the
    same pixels are in the same fold. The weights after the last epoch are used: to choose an epoch by the fold that is then measured would
    make the result too good.

    Args:
      files: gzipped TFRecord files with Transform's features.
      spec: the labels, and the size of the pictures.
      parameters: how to fit. `patience` is ignored.
      folds: the number of folds, at least 2.
      directory: a folder for temporary files, `part-NUMBER.gz`, which stay in it.

    Raises:
      CaptchaPipelineError: a fold has no picture, the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    strategy = choose_strategy(parameters.strategy)
    parts = _divide(files, folds, directory)
    if not all(part.keys for part in parts):
        count = sum(len(part.keys) for part in parts)
        raise CaptchaPipelineError(f"{count} pictures are too few for {folds} folds: one would be empty. Use fewer folds.")
    for held_out in parts:
        member = _fit([part for part in parts if part != held_out], held_out, spec, parameters, strategy)
        yield member, _read(member, [held_out], spec)


def learning_curve(
    files: Sequence[str],
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    directory: Path,
    on_fit: Callable[[PartFit], None],
    parts: int = PARTS,
) -> list[PartFit]:
    """Divides the pictures into parts of about equal size. Fits models to one, two and four parts, and counts how they read other pictures.

    With eight parts, a model reads all other pictures. With more parts, it reads enough of them to measure it. The four parts contain the
    two, and these the one, so that the curve shows the effect of the number of pictures, not of which pictures they are. With few pictures
    there are several fits for each number of parts, which start at different parts.

    Args:
      files, spec, parameters, directory: as for `members`.
      on_fit: called after each fit with its result.
      parts: a multiple of PARTS. With more parts, the models are fitted to fewer pictures.

    Returns:
      The result of each fit.

    Raises:
      CaptchaPipelineError: there are too few pictures, the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    strategy = choose_strategy(parameters.strategy)
    divided = _divide(files, parts, directory)
    count = sum(len(part.keys) for part in divided)
    if count < EACH * parts or not all(part.keys for part in divided[:: parts // PARTS]):
        part = "an eighth" if parts == PARTS else f"1/{parts}"
        raise CaptchaPipelineError(f"{count} pictures are too few to fit models to {part} of them. Label at least {EACH * parts} pictures.")
    draws = _draws(count, parts)
    results = []
    for width in _WIDTHS:
        for first in range(0, parts, parts // draws):
            # The parts in a circle, from `first` on, so that the parts of a smaller width are also in a larger width.
            turned = [*divided[first:], *divided[:first]]
            held_out = turned[width:] if parts == PARTS else _enough(turned[width:])
            results.append(_measured(turned[:width], held_out, width / parts, spec, parameters, strategy))
            on_fit(results[-1])
    return results


def fit_sizes(count: int, parts: int = PARTS) -> list[int]:
    """Returns for each fit of `learning_curve` the approximate number of pictures it is fitted to, out of `count` pictures."""
    return [count * width // parts for width in _WIDTHS for _ in range(_draws(count, parts))]


def _draws(count: int, parts: int) -> int:
    """Returns the number of fits for each of _WIDTHS, if `count` pictures are in `parts` parts."""
    return next((draws for most, draws in _DRAWS if count * PARTS <= most * parts), 1)


def fit_to_file(train: Path, others: Path, spec: CaptchaSpec, parameters: Hyperparameters) -> Readings:
    """Fits a model to the transformed examples of one file, and returns how it reads those of another file, in their order.

    Args:
      train, others: gzipped TFRecord files with Transform's features. `others` also gives the loss after each epoch.
      spec, parameters: as for `members`.

    Raises:
      CaptchaPipelineError: the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    fitted, held_out = (_Part(path, tuple(map(_key, _records([str(path)])))) for path in (train, others))
    model = _fit([fitted], held_out, spec, parameters, choose_strategy(parameters.strategy))
    return _read(model, [held_out], spec)


def _measured(
    fitted: Sequence[_Part],
    held_out: Sequence[_Part],
    share: float,
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    strategy: tf.distribute.Strategy,
) -> PartFit:
    """Fits a model to some parts, and counts how it reads other parts."""
    started = time.process_time()
    # The evaluation after each epoch has no effect on the result, so one part is enough for it.
    model = _fit(fitted, max(held_out, key=lambda part: len(part.keys)), spec, parameters, strategy)
    seconds = time.process_time() - started
    counts = _read(model, held_out, spec).counts(spec)
    count = sum(len(part.keys) for part in fitted)
    steps = parameters.fit_length(count).steps
    return PartFit(count, counts.examples, counts.examples - counts.sequences_right, share, steps, seconds, counts)


def _enough(parts: Sequence[_Part]) -> list[_Part]:
    """Returns the first parts that together have at least _READ pictures; all parts if they have fewer."""
    before = itertools.accumulate((len(part.keys) for part in parts), initial=0)
    return [part for part, count in zip(parts, before, strict=False) if count < _READ]


def _fit(
    fitted: Sequence[_Part], evaluated: _Part, spec: CaptchaSpec, parameters: Hyperparameters, strategy: tf.distribute.Strategy
) -> keras.Model:
    """Returns a model that was fitted to some parts, and evaluated on another part after each epoch. Its outputs are logits."""
    examples = Examples([str(part.path) for part in fitted], [str(evaluated.path)], sum(len(part.keys) for part in fitted))
    length = parameters.fit_length(examples.count)
    check_batch_size(parameters.batch_size, strategy.num_replicas_in_sync, examples.count)
    keras.backend.clear_session()
    keras.utils.set_random_seed(parameters.seed)
    with strategy.scope():
        model = compiled_model(spec, parameters, length.steps)
    fit_to(examples, model, spec, parameters, length, strategy, 0, [Progress(length.epochs, None, chooses=False)])
    return keras.Model(model.input, model.outputs[0])


def _read(model: keras.Model, parts: Sequence[_Part], spec: CaptchaSpec) -> Readings:
    """Returns how a model reads some parts."""
    batches = evaluation_batches([str(part.path) for part in parts], spec, EVALUATION_BATCH)
    read = [(labels.numpy(), model.predict_on_batch(images)) for images, labels in batches]
    labels, logits = (np.concatenate(column) for column in zip(*read, strict=True))
    return Readings(tuple(key for part in parts for key in part.keys), labels, logits)


def _divide(files: Sequence[str], count: int, directory: Path) -> list[_Part]:
    """Divides records into parts, and writes each part to a file in `directory`. The pixels of a picture decide its part."""
    paths = [directory / f"part-{number}.gz" for number in range(count)]
    keys: dict[Path, list[bytes]] = {path: [] for path in paths}
    writers = {path: tf.io.TFRecordWriter(str(path), "GZIP") for path in paths}
    for record in _records(files):
        key = _key(record)
        path = paths[int.from_bytes(key[:8], "big") % count]
        writers[path].write(record)
        keys[path].append(key)
    for writer in writers.values():
        writer.close()
    return [_Part(path, tuple(keys[path])) for path in paths]


def _records(files: Sequence[str]) -> Iterator[bytes]:
    records: Iterator[bytes] = tf.data.TFRecordDataset(list(files), "GZIP").as_numpy_iterator()
    return records


def _key(record: bytes) -> bytes:
    """Returns the `pixels_key` of a transformed example."""
    (pixels,) = tf.train.Example.FromString(record).features.feature[PIXELS].bytes_list.value
    return pixels_key(pixels)
