"""Makes batches for the model from transformed examples."""

import fnmatch
import os
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import IS_DRAWN, LABEL_IDS, PIXEL_MEAN, PIXEL_STD, PIXELS
from components.data.captcha_spec import CaptchaSpec
from components.data.model_inputs import model_inputs, normalise, pixels_of
from components.training.augmentations import augment
from components.training.hyperparameters import Hyperparameters

# Bytes of pixels. A data set up to this size is cached in memory after the first epoch. A larger one has a shuffle buffer of this size.
_MEMORY_BYTES: Final = 2 << 30
_COUNTED: Final = 256  # records that are counted together


def record_files(patterns: Sequence[str], split: str) -> list[str]:
    """Returns the files that match TFX's patterns, sorted by name within each pattern.

    Args:
      patterns: each a folder and a pattern for the file names in it.
      split: the name of the split, for the error message.

    Raises:
      CaptchaPipelineError: no file matches.
    """
    files = []
    for folder, name in map(os.path.split, patterns):
        # The folder is a user's path, which must not be read as a pattern.
        there = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []
        files += [os.path.join(folder, file) for file in sorted(fnmatch.filter(there, name))]
    if not files:
        raise CaptchaPipelineError(f"The {split} split is empty: no file matches {', '.join(patterns)}. Make a span with more pictures.")
    return files


def count_records(files: Sequence[str], most: int = -1) -> int:
    """Returns the number of records in gzipped TFRecord files. Reads them once.

    Args:
      files: the files.
      most: the number at which counting stops; -1 for no limit.
    """
    return int(tf.data.TFRecordDataset(list(files), "GZIP").take(most).reduce(tf.constant(0, tf.int64), lambda count, _: count + 1))


def count_by_origin(files: Sequence[str]) -> tuple[int, int]:
    """Returns the numbers of labelled and of drawn pictures in gzipped TFRecord files. Reads them once."""
    is_drawn = tf.data.TFRecordDataset(list(files), "GZIP").batch(_COUNTED).map(_is_drawn, num_parallel_calls=tf.data.AUTOTUNE)
    origins = is_drawn.map(lambda drawn: tf.math.bincount(tf.cast(drawn, tf.int32), minlength=2, dtype=tf.int64))
    labelled, drawn = origins.reduce(tf.zeros(2, tf.int64), tf.add).numpy().tolist()
    return labelled, drawn


def training_batches(
    files: Sequence[str],
    count: int,
    spec: CaptchaSpec,
    parameters: Hyperparameters,
    *,
    repeats: int = 1,
    passes: int = 1,
    first_epoch: int = 0,
    replicas: int = 1,
    ours: range = range(1),
) -> tf.data.Dataset:
    """Returns one epoch of shuffled and augmented batches. Each iteration over it has a new order and new augmentations.

    The same seed gives the same batches.

    Args:
      files: gzipped TFRecords of Transform's features.
      count: the number of records in a pass: those in the files, with their repeats.
      spec: the image size and the label length.
      parameters: the batch size, the seed and the settings of the augmentations. The last batch of an epoch may be smaller.
      repeats: how often a picture that is not drawn occurs in a pass; a drawn one occurs once.
      passes: the number of passes in an epoch, which are shuffled together.
      first_epoch: the number of completed epochs. The orders and augmentations are those that would have followed in an uninterrupted fit.
      replicas: the number of replicas that share each batch evenly. With more than one, an epoch omits the records after the last full
        batch. They are different records in each epoch.
      ours: the replicas whose parts are returned, one after the other. Every worker shuffles all records, so that the batches do
        not depend on the number of workers, but decodes and augments only its own parts.

    Returns:
      float32 images [N, height, width, channels], int64 labels [N, max_length].
    """
    in_memory = _MEMORY_BYTES // (spec.height * spec.width * spec.channels)
    records = tf.data.TFRecordDataset(list(files), "GZIP")
    if count <= in_memory:
        records = records.cache()
    if repeats > 1:
        records = records.flat_map(lambda record: _repeated(record, repeats))
    together = records.repeat(passes)
    shuffled = together.shuffle(max(1, min(passes * count, in_memory)), seed=parameters.seed, reshuffle_each_iteration=True)
    batches = _parts(shuffled.batch(parameters.batch_size, drop_remainder=replicas > 1), replicas, ours)
    # Stateless random numbers, because those of a stateful generator would depend on the order of the threads of `map`.
    seeds = tf.data.Dataset.random(seed=parameters.seed + ours.start, rerandomize_each_iteration=True).batch(2)

    def prepare(serialized: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = _parse(serialized, spec)
        pixels = augment(pixels_of(features, spec), parameters, seed)
        return normalise(pixels, features), features[LABEL_IDS]

    prepared = tf.data.Dataset.zip((batches, seeds)).map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    for _ in range(first_epoch):
        iter(prepared)  # reads no records, but each iterator takes the next seeds
    return prepared


def evaluation_batches(
    files: Sequence[str], spec: CaptchaSpec, batch_size: int, *, replicas: int = 1, ours: range = range(1)
) -> tf.data.Dataset:
    """Returns batches of all records in file order, like those of `training_batches` but without shuffling and augmentation.

    Raises:
      CaptchaPipelineError: there are fewer records than replicas.
    """
    if replicas > 1:
        batch_size = _without_empty_parts(count_records(files), batch_size, replicas)
    batches = _parts(tf.data.TFRecordDataset(list(files), "GZIP").batch(batch_size), replicas, ours)

    def prepare(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = _parse(serialized, spec)
        return model_inputs(features, spec), features[LABEL_IDS]

    return batches.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _repeated(record: tf.Tensor, times: int) -> tf.data.Dataset:
    drawn = _is_drawn(record[tf.newaxis])[0]
    return tf.data.Dataset.from_tensors(record).repeat(tf.where(drawn == 1, tf.constant(1, tf.int64), times))


def _without_empty_parts(count: int, batch_size: int, replicas: int) -> int:
    """Returns the largest size up to `batch_size` with which even the last batch has a record for each replica.

    TensorFlow fails on an empty batch: its convolutions on the CPU return a wrong shape, its batch normalisation returns NaN.
    """
    for size in range(batch_size, replicas - 1, -1):
        if count >= replicas and (count % size == 0 or count % size >= replicas):
            return size
    raise CaptchaPipelineError(
        f"The eval split has {count} records: too few to share among {replicas} replicas. Set trainer.strategy=auto."
    )


def _parts(batches: tf.data.Dataset, replicas: int, ours: range) -> tf.data.Dataset:
    """Splits each batch among replicas, one record each in turn, and returns the parts of the replicas in `ours`, one after the other."""
    if replicas == 1:
        return batches
    return batches.flat_map(lambda batch: tf.data.Dataset.range(ours.start, ours.stop).map(lambda replica: batch[replica::replicas]))


def _is_drawn(serialized: tf.Tensor) -> tf.Tensor:
    """Returns IS_DRAWN of transformed examples: int64 [N]. Examples that Transform has not written have no such feature: 0."""
    return tf.io.parse_example(serialized, {IS_DRAWN: tf.io.FixedLenFeature([], tf.int64, 0)})[IS_DRAWN]


def _parse(serialized: tf.Tensor, spec: CaptchaSpec) -> dict[str, tf.Tensor]:
    parsed: dict[str, tf.Tensor] = tf.io.parse_example(
        serialized,
        {
            PIXELS: tf.io.FixedLenFeature([], tf.string),
            PIXEL_MEAN: tf.io.FixedLenFeature([], tf.float32),
            PIXEL_STD: tf.io.FixedLenFeature([], tf.float32),
            LABEL_IDS: tf.io.FixedLenFeature([spec.max_length], tf.int64),
        },
    )
    return parsed
