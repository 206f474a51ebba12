"""Measures how well a recipe reads where pictures are few: a model that was not fitted to a picture reads it."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from scipy.special import softmax

from components.base.errors import CaptchaPipelineError
from components.base.features import PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.metrics import ReadingCounts
from components.training.batches import evaluation_batches
from components.training.checkpoint import Progress
from components.training.devices import choose_strategy
from components.training.hyperparameters import Hyperparameters
from components.training.run_fn import EVALUATION_BATCH, Examples, check_batch_size, compiled_model, fit_to


def cross_validate(
    files: Sequence[str],
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    folds: int,
    directory: Path,
    on_fold: Callable[[ReadingCounts], None],
) -> ReadingCounts:
    """Divides pictures into folds. For each fold, fits a model to the other folds and reads the fold with it.

    The method is cross-validation (Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974). Pictures with the
    same pixels are in the same fold. The weights after the last epoch are used, because choosing an epoch by the fold that is then measured
    would flatter the model. Confidences are not calibrated.

    Args:
      files: gzipped TFRecords of Transform's features.
      spec: what the models read.
      parameters: how to fit. `patience` is ignored.
      folds: the number of folds.
      directory: a folder for temporary files.
      on_fold: called after each fold with the counts so far.

    Returns:
      The counts over all pictures.

    Raises:
      CaptchaPipelineError: a fold has no picture, the strategy is unavailable, or its replicas cannot share a batch evenly.
    """
    strategy = choose_strategy(parameters.strategy)
    parts = _divide(files, folds, directory)
    counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    for held_out in parts:
        others = [part for part in parts if part != held_out]
        examples = Examples([str(part) for part in others], [str(held_out)], sum(parts[part] for part in others))
        length = parameters.fit_length(examples.count)
        check_batch_size(parameters.batch_size, strategy.num_replicas_in_sync, examples.count)
        keras.backend.clear_session()
        keras.utils.set_random_seed(parameters.seed)
        with strategy.scope():
            model = compiled_model(spec, parameters, length.steps)
        fit_to(examples, model, spec, parameters, length, strategy, 0, [Progress(length.epochs, None, chooses=False)])
        reader = keras.Model(model.input, model.outputs[0])
        for images, labels in evaluation_batches(examples.eval, spec, EVALUATION_BATCH):
            counted.add(labels.numpy(), softmax(reader.predict_on_batch(images), axis=-1))
        on_fold(counted)
    return counted


def _divide(files: Sequence[str], folds: int, directory: Path) -> dict[Path, int]:
    """Writes each record to the file of its fold. Returns the number of records by file."""
    paths = [directory / f"fold-{number}.gz" for number in range(folds)]
    counts = dict.fromkeys(paths, 0)
    writers = {path: tf.io.TFRecordWriter(str(path), "GZIP") for path in paths}
    for record in tf.data.TFRecordDataset(list(files), "GZIP").as_numpy_iterator():
        (pixels,) = tf.train.Example.FromString(record).features.feature[PIXELS].bytes_list.value
        path = paths[int.from_bytes(hashlib.sha256(pixels).digest()[:8], "big") % folds]
        writers[path].write(record)
        counts[path] += 1
    for writer in writers.values():
        writer.close()
    if not all(counts.values()):
        raise CaptchaPipelineError(f"{sum(counts.values())} pictures are too few for {folds} folds: one would be empty. Use fewer folds.")
    return counts
