"""Finds labels of a run that are probably wrong: a model that was not fitted to the picture reads another text, with high confidence."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.special import softmax

from components.base.features import IMAGE, LABEL, SPAN, SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.data.example_proto import Example
from components.data.pictures import visible_picture
from components.data.sources.index import Place, SpanIndex
from components.data.sources.sift import label_problem
from components.data.spans import list_spans
from components.data.splits import split_key
from components.evaluation.confident_learning import find
from components.evaluation.metrics import ReadingCounts, Results, read
from components.training.calibration import temperature
from components.training.cross_validation import Readings, out_of_fold, pixels_key
from components.training.untransformed import decoded
from pipeline.config.config import Config
from pipeline.runs.cross_validation import all_splits_transformed, background_of, examples
from pipeline.runs.history import RunRecord


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong.

    Attributes:
      key: the key of the picture (components/data/splits.py), hexadecimal.
      span: the name of the span, such as "span-000001".
      split: the split of the record in this span.
      shard: the path of the record's file, relative to the span.
      record: the number of the record in the file, from 0.
      file: the name of the imported picture file; "" if it is not known.
      label: the text in the record, in its canonical form.
      reading: what the model reads that was not fitted to this picture.
      confidence: the probability of the reading, 0 to 1.
      label_confidence: the probability of the label, 0 to 1.
      score: the lowest probability of a character of the label, 0 to 1. The lower, the more likely the label is wrong.
      picture: the encoded picture.
    """

    key: str
    span: str
    split: str
    shard: str
    record: int
    file: str
    label: str
    reading: str
    confidence: float
    label_confidence: float
    score: float
    picture: bytes


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
      run_id: the run whose data were audited.
      pictures: the number of labelled pictures that were read. A picture that is in several spans counts several times.
      as_labelled: the share of these pictures that the models read as they are labelled, 0 to 1.
      suspects: the labels that are probably wrong, the most likely one first. A picture with the same label in several spans occurs once.
    """

    run_id: str
    pictures: int
    as_labelled: float
    suspects: tuple[Suspect, ...]


def audit(config: Config, run: RunRecord, folds: int, on_fold: Callable[[Results], None]) -> Audit:
    """Looks for wrong labels in all splits of a run. Fits one model for each fold of the pictures.

    The result leaves out labels that were corrected after the run, and labels of spans that no longer exist.

    Args:
      config: gives the trainer's settings, and the data folder with the spans.
      run: the run whose examples are used.
      folds: the number of folds. The pictures of each are read by a model that was fitted to the other folds.
      on_fold: called after each fit with the results so far.

    Raises:
      CaptchaPipelineError: the run has no examples, has too few, or its section `captcha` differs from that of `config`; or a span is
        damaged.
    """
    spec = config.captcha
    counted = ReadingCounts(spec.max_length, spec.num_classes, spec.min_length)
    parts: list[Readings] = []
    with all_splits_transformed(config, run) as (by_split, directory):
        for fold in out_of_fold([*chain.from_iterable(by_split.values())], spec, config.trainer, folds, directory):
            parts.append(fold)
            counted.add(fold.labels, fold.probabilities)
            on_fold(counted.results(config.evaluator.confidence))
    labels, logits = np.concatenate([fold.labels for fold in parts]), np.concatenate([fold.logits for fold in parts])
    # Label smoothing makes the models too little confident. All folds share a temperature, so that their probabilities can be compared.
    probabilities = softmax(logits / temperature(logits, labels), axis=-1)
    findings = find(labels, probabilities)
    read_ids, chosen = read(probabilities, spec.min_length)
    of_labels = np.take_along_axis(probabilities, labels[..., np.newaxis], axis=-1)[..., 0].prod(axis=-1)
    keys = [key for fold in parts for key in fold.keys]
    # Records with the same pixels and the same label have one row: they were in one fold, and have the same probabilities.
    rows = {(keys[row], tuple(labels[row].tolist())): row for row in findings.order.tolist()}
    found: dict[int, Suspect] = {}
    with SpanIndex(Path(config.data.root), config.data.picture_rules, config.data.unused, save=False) as index:
        index.refresh(list_spans(config.data.root))
        for example, pixels in decoded([file for split in SPLITS for file in examples(run, split)], spec, background_of(run)):
            image, label = example.features.feature[IMAGE].bytes_list.value[0], _text(example, LABEL)
            row = rows.get((pixels_key(pixels), tuple(spec.encode(label))))
            if row is None or row in found:
                continue
            key = split_key(visible_picture(image, config.data.picture_rules))
            if place := _place(index, key, _text(example, SPAN), label, spec):
                span = index.span_of(place)
                found[row] = Suspect(
                    key=key.hex(),
                    span=span.path.name,
                    split=place.split,
                    shard=span.files(place.split)[place.shard].relative_to(span.path).as_posix(),
                    record=place.record,
                    file=place.name,
                    label=label,
                    reading=spec.decode(read_ids[row].tolist()),
                    confidence=float(chosen[row].prod()),
                    label_confidence=float(of_labels[row]),
                    score=float(findings.score[row]),
                    picture=image,
                )
    return Audit(
        run.run_id,
        len(labels),
        counted.sequences_right / counted.examples,
        tuple(found[row] for row in findings.order.tolist() if row in found),
    )


def _place(index: SpanIndex, key: bytes, span: str, label: str, spec: CaptchaSpec) -> Place | None:
    """Returns where the span with the name `span` has the picture with this label; None if it is gone, or a correction supersedes it."""
    for place in index.current(key):
        if index.span_of(place).path.name == span and not label_problem(place.label, spec) and spec.canonical(place.label) == label:
            return place
    return None


def _text(example: Example, name: str) -> str:
    text: str = example.features.feature[name].bytes_list.value[0].decode()
    return text
