"""Labels pictures with several models. A picture gets a label if the models agree on it.

This is self-training, after Lee, "Pseudo-Label" (2013). The labels of a run are divided into folds, and for each fold one model, a
*member*, is fitted to all other folds. Each member reads every picture several times, moved by a few pixels (Sajjadi et al.,
"Regularization With Stochastic Transformations and Perturbations", 2016). A text becomes a label if at least four in five of all readings
are this text. The confidences of the models are not used: with few labels, the eval split that calibrates them is too small.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from scipy.special import softmax

from components.base.features import PSEUDO
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import PictureError, inspect_picture
from components.data.records import canonical_example
from components.data.sources.imported import read_entry
from components.data.sources.listing import Entry
from components.data.sources.outcome import Imported
from components.evaluation.metrics import ReadingCounts, Results, read
from components.training.batches import evaluation_batches
from components.training.cross_validation import members
from components.training.run_fn import EVALUATION_BATCH
from components.training.untransformed import transform_like
from pipeline.config.config import Config
from pipeline.runs.cross_validation import labelled_by_people
from pipeline.runs.history import RunRecord

_SHIFT: Final = 2  # how far a picture is moved, in pixels of the model's input; the default of trainer.shift
_MOVES: Final = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))  # how many times _SHIFT down and to the right
# The share of the readings that must be the same text. With 200 labels of a public set of four digits, 99 % of the pictures reach it
# (docs/recipe.md).
_AGREEMENT: Final = 0.8

Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Vote:
    """What the members read in a picture.

    Attributes:
      entry: the picture. Its label is the commonest of their readings.
      share: the share of their readings that equal this label, above 0, at most 1.
    """

    entry: Entry
    share: float

    @property
    def agreed(self) -> bool:
        """Whether the members agree well enough for their reading to become a label."""
        return self.share >= _AGREEMENT


def votes(
    config: Config,
    run: RunRecord,
    entries: Iterable[Entry],
    folds: int,
    result: Imported,
    on_fold: Callable[[Results], None],
) -> list[Vote]:
    """Returns what the members read in each picture, in the order of `entries`. Pictures that cannot be decoded are left out.

    Args:
      config: gives the trainer's settings.
      run: the members are fitted to the transformed examples of its train and eval splits. Examples that cannot judge a model are
        left out: see `labelled_by_people`.
      entries: the pictures; their labels are not used.
      folds: the number of members.
      result: the pictures that cannot be decoded are noted in it.
      on_fold: called after each fit. Its argument says how well the members so far read the labelled pictures that they were not fitted to.

    Raises:
      CaptchaPipelineError: the run has no transformed examples, has too few, or its section `captcha` differs from that of `config`.
    """
    spec = config.captcha
    counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    with tempfile.TemporaryDirectory(dir=config.root) as name:
        directory = Path(name)
        labelled = [*chain.from_iterable(labelled_by_people(config, run, directory).values())]
        pictures, transformed = directory / "pictures.tfrecord", directory / "pictures.gz"
        readable = _write_readable(entries, pictures, config, result)
        transform_like(labelled[0], [str(pictures)], spec, config.data.background, transformed)
        ids: list[Ids] = []
        for member, fold in members(labelled, spec, config.trainer, folds, directory):
            ids += _read_moved(member, transformed, spec)
            counted.add(fold.labels, fold.probabilities)
            on_fold(counted.results(config.evaluator.confidence))
    readings = np.stack(ids, axis=1)
    return [_vote(entry, [spec.decode(row) for row in rows]) for entry, rows in zip(readable, readings.tolist(), strict=True)]


def _write_readable(entries: Iterable[Entry], path: Path, config: Config, result: Imported) -> list[Entry]:
    """Writes pictures to a file of examples as CaptchaExampleGen does, all with an arbitrary label. Returns those that could be decoded."""
    spec, readable = config.captcha, list[Entry]()
    label = spec.characters[0] * spec.min_length
    with tf.io.TFRecordWriter(str(path)) as writer:
        for entry in entries:
            if (data := read_entry(entry, result)) is None:
                continue
            try:
                encoded = inspect_picture(data, spec, config.data.picture_rules).encoded
            except PictureError as error:
                result.leave_out(error.reason, f"{entry.name} ({error})")
                continue
            writer.write(canonical_example(encoded, label, PSEUDO, {}).SerializeToString())
            readable.append(entry)
    return readable


def _read_moved(member: keras.Model, pictures: Path, spec: CaptchaSpec) -> list[Ids]:
    """Returns for each of the _MOVES the class ids that a member reads after it, int16 [N, max_length]."""
    found: list[list[Ids]] = [[] for _ in _MOVES]
    for images, _ in evaluation_batches([str(pictures)], spec, EVALUATION_BATCH):
        for readings, view in zip(found, moved(images.numpy()), strict=True):
            ids, _ = read(softmax(member.predict_on_batch(view), axis=-1), spec.min_length)
            readings.append(ids.astype(np.int16))
    return [np.concatenate(readings) if readings else np.empty((0, spec.max_length), np.int16) for readings in found]


def moved(images: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Yields images, float32 [N, H, W, C], then the same images moved up, down, left and right by two pixels, each in a new array.

    As in training, pixels that come in at an edge mirror those inside it.
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), "symmetric")
    for down, across in _MOVES:
        top, left = _SHIFT * (1 - down), _SHIFT * (1 - across)
        yield padded[:, top : top + height, left : left + width]


def _vote(entry: Entry, texts: Sequence[str]) -> Vote:
    ((text, count),) = Counter(texts).most_common(1)
    return Vote(replace(entry, label=text), count / len(texts))
