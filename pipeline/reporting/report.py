"""The report of a run: one self-contained HTML file, without network access or JavaScript.

This module takes plain data, which the caller of `write_report` collects. The templates draw figures as SVG with real text, so that the
browser finds glyphs for any charset. Labels, file names and pictures are untrusted input: text is escaped; pictures are decoded within
limits and encoded again as small PNGs.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from components.base.files import write_whole
from components.evaluation.figures import FIGURES
from components.evaluation.gate import BEST, SetResult
from components.evaluation.metrics import Rate, Results
from pipeline.reporting import filters

MAX_MISREAD: Final = 48  # pictures in the gallery
MAX_QUARANTINED: Final = 3  # examples per reason
MAX_CLASSES: Final = 40  # rows of a table or of the confusion map; more would be illegible
MAX_PAIRS: Final = 12  # rows of the table of confused pairs


@dataclass(frozen=True)
class Step:
    """A step of the run.

    Attributes:
      node: name of the step.
      state: as in `pipeline.runs.history.State`.
      seconds: duration; None if unknown.
      engine: the Beam engine of the step; "" for the machine of the run.
    """

    node: str
    state: str
    seconds: float | None
    engine: str = ""


@dataclass(frozen=True)
class Slice:
    """The full-sequence accuracy over the `count` examples of a slice of the test split, such as "low contrast" of group "difficulty"."""

    group: str
    name: str
    count: int
    accuracy: Rate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of the Evaluator on the test split.

    Attributes:
      results: accuracy, confusion and calibration.
      classes: the model's classes in order; the last may be "", the blank ("no character here").
      slices: accuracy by slice.
      baseline: full-sequence accuracy of the production model on the same pictures; None without a production model.
      sets: results by test set that judged the model, such as "golden set". On the set BEST, the other model is the best model so far
        instead of the production model.
      confidence: confidence level of all intervals, 0 to 1.
    """

    results: Results
    classes: Sequence[str]
    slices: Sequence[Slice] = ()
    baseline: Rate | None = None
    sets: Mapping[str, SetResult] = field(default_factory=dict)
    confidence: float = 0.95


@dataclass(frozen=True)
class Misread:
    """A misread picture of the test split: its encoded bytes, its label, the predicted text and the confidence, 0 to 1."""

    picture: bytes
    truth: str
    prediction: str
    confidence: float


@dataclass(frozen=True)
class QuarantineExample:
    """One refused record.

    Attributes:
      file: name of the shard.
      index: number of the record in the shard.
      detail: what is wrong with it.
      picture: its encoded picture, which may be any bytes; None if it has none.
    """

    file: str
    index: int
    detail: str
    picture: bytes | None


@dataclass(frozen=True)
class QuarantineReason:
    """A reason for the quarantine, the number of its records, and a few examples."""

    reason: str
    count: int
    examples: Sequence[QuarantineExample]


@dataclass(frozen=True)
class Quarantine:
    """The records that were left out.

    Attributes:
      total: number of records read.
      bad: number of invalid records.
      reasons: invalid records by reason.
      overlap: valid records whose picture is also in the test or eval split. They do not count as bad.
    """

    total: int
    bad: int
    reasons: Sequence[QuarantineReason]
    overlap: Sequence[QuarantineReason] = ()


@dataclass(frozen=True)
class Summary:
    """Statistics of a numeric feature over a split."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of a split.

    Attributes:
      split: its name.
      count: number of pictures.
      characters: occurrences by character, over all labels.
      numbers: summaries by feature, such as "brightness".
    """

    split: str
    count: int
    characters: Mapping[str, int]
    numbers: Mapping[str, Summary]


@dataclass(frozen=True, eq=False)
class Drift:
    """The drift of the newest span from the other spans of the window. Both mappings are empty if there is no other span.

    Attributes:
      newest: name of the newest span.
      distances: by measure, the distance and its threshold, 0 to 1. The threshold is None for a measure without a limit.
      histograms: by measure, the shares of the grey levels 0 to 255 in the newest span and in the other spans.
    """

    newest: str
    distances: Mapping[str, tuple[float, float | None]]
    histograms: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """The content of the report. The report says that empty and None values are missing.

    Attributes:
      title: name of the pipeline.
      run_id: ID of the run.
      started: start of the run.
      blessed: whether the model was blessed; None if it was not evaluated.
      failures: reasons why the model was not blessed or the run did not finish.
      warnings: remarks that a reader of the figures should know.
      advice: ways to improve a model below the accuracy floor.
      pushed_version: the version of the model in the serving folder; None if nothing was pushed.
      base_problem: why the fit could not continue from the production model, or only in part; "" if there was no problem.
      steps: the steps in the order in which they ran.
      evaluation: results on the test split.
      history: one mapping per epoch, with the keys loss, val_loss, sequence_accuracy, val_sequence_accuracy, val_cross_entropy and seconds,
        each of which may be missing.
      misread: misread pictures of the test split.
      quarantine: records that were left out.
      splits: statistics of each split.
      drift: drift of the newest span.
      config: the configuration, in YAML.
      versions: versions of libraries by name.
    """

    title: str
    run_id: str
    started: datetime
    blessed: bool | None
    failures: Sequence[str] = ()
    warnings: Sequence[str] = ()
    advice: Sequence[str] = ()
    pushed_version: str | None = None
    base_problem: str = ""
    steps: Sequence[Step] = ()
    evaluation: Evaluation | None = None
    history: Sequence[Mapping[str, float]] = ()
    misread: Sequence[Misread] = ()
    quarantine: Quarantine | None = None
    splits: Sequence[SplitStatistics] = ()
    drift: Drift | None = None
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def write_report(inputs: ReportInputs, path: Path) -> None:
    """Writes the report to `path` as UTF-8. The file appears complete or not at all. Missing folders are created."""
    evaluation = inputs.evaluation
    html = filters.template("report.html.j2").render(
        inputs=inputs,
        evaluation=evaluation,
        # Mistakes with high confidence first: they show best what the model has not learned.
        misread_total=_misread_total(inputs),
        misread=sorted(inputs.misread, key=lambda misread: -misread.confidence)[:MAX_MISREAD],
        confusion=_confusion_map(evaluation) if evaluation else None,
        pairs=_confused_pairs(evaluation) if evaluation else [],
        scores=_scores(evaluation) if evaluation else [],
        scale=_error_scale(evaluation) if evaluation else 1.0,
        reliability=_reliability(evaluation.results) if evaluation else [],
        distribution=_distribution(inputs.splits),
        BEST=BEST,
        FIGURES=FIGURES,
        MAX_QUARANTINED=MAX_QUARANTINED,
        MAX_CLASSES=MAX_CLASSES,
    )
    write_whole(path, html)


def _misread_total(inputs: ReportInputs) -> int:
    if inputs.evaluation is None or not inputs.evaluation.results.example_count:
        return len(inputs.misread)
    results = inputs.evaluation.results
    return round(results.example_count * (1 - results.sequence_accuracy.value))


def _error_scale(evaluation: Evaluation) -> float:
    """Returns the end of the axis of error rates. Every bar fits; the interval of a small slice may not."""
    results = evaluation.results
    values = [rate.value for rate in (*results.position_accuracy, *(part.accuracy for part in evaluation.slices))]
    return filters.nice_ceiling(max(1 - share for share in (results.sequence_accuracy.lower, *values) if not math.isnan(share)))


def _confusion_map(evaluation: Evaluation) -> dict[str, object]:
    """Returns the classes to draw, in order, and the nonzero cells, each with its share of the row's occurrences."""
    matrix = evaluation.results.confusion_matrix
    count = matrix.shape[0]
    shown = np.arange(count)
    if count > MAX_CLASSES:
        truths, readings, times = _mistakes(matrix)
        involved = sum(np.bincount(ends, weights=times, minlength=count) for ends in (truths, readings))
        shown = np.sort(np.argsort(-involved, kind="stable")[:MAX_CLASSES])
    counts = matrix[shown][:, shown].toarray()
    shares = counts / np.maximum(_occurrences(evaluation)[shown, None], 1)
    return {
        "classes": [evaluation.classes[i] for i in shown.tolist()],
        "hidden": count - len(shown),
        "largest": float(np.where(np.eye(len(shown), dtype=bool), 0, shares).max()),
        "cells": [(i, j, int(counts[i, j]), float(shares[i, j])) for i, j in np.argwhere(counts).tolist()],
    }


def _confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
    """Returns the most common mistakes, each with truth, reading, count, and share of the truth's occurrences."""
    occurrences = _occurrences(evaluation)
    matrix, classes = evaluation.results.confusion_matrix, evaluation.classes
    truths, readings, times = _mistakes(matrix)
    commonest = np.argsort(-times, kind="stable")[:MAX_PAIRS]
    return [
        (classes[i], classes[j], int(count), float(count / occurrences[i]))
        for i, j, count in zip(truths[commonest], readings[commonest], times[commonest], strict=True)
    ]


def _occurrences(evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """Returns how often each class occurs in the labels, int64 [num_classes]. The blank occurs once per label, at its end."""
    counts: npt.NDArray[np.int64] = evaluation.results.confusion_matrix.sum(axis=1)
    return np.where([name == "" for name in evaluation.classes], evaluation.results.example_count, counts)


def _mistakes(matrix: csr_array) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Returns the nonzero cells off the diagonal, row by row: truth, reading and count, each int [cells]."""
    cells = matrix.tocoo()
    wrong = np.flatnonzero((cells.row != cells.col) & (cells.data != 0))
    wrong = wrong[np.lexsort((cells.col[wrong], cells.row[wrong]))]
    return cells.row[wrong], cells.col[wrong], cells.data[wrong]


def _scores(evaluation: Evaluation) -> list[tuple[str, int, float, float]]:
    """Returns character, occurrences, precision and recall. Class order if all fit into a table, else the lowest recall first."""
    results = evaluation.results
    support = results.confusion_matrix.sum(axis=1).tolist()
    precision, recall = results.character_precision.tolist(), results.character_recall.tolist()
    characters = evaluation.classes[: len(recall)]
    scores = list(zip(characters, support[: len(recall)], precision, recall, strict=True))
    if len(scores) <= MAX_CLASSES:
        return scores
    return sorted((score for score in scores if score[1]), key=lambda score: score[3])[:MAX_CLASSES]


def _reliability(results: Results) -> list[dict[str, float]]:
    """Returns the confidence bins that are not empty."""
    count = len(results.calibration_count)
    return [
        {
            "low": i / count,
            "high": (i + 1) / count,
            "count": int(results.calibration_count[i]),
            "confidence": float(results.calibration_confidence[i]),
            "accuracy": float(results.calibration_accuracy[i]),
        }
        for i in np.flatnonzero(results.calibration_count)
    ]


def _distribution(splits: Sequence[SplitStatistics]) -> dict[str, object]:
    """Returns each character's share of each split. Of a large charset only the most common and the rarest characters."""
    total: dict[str, int] = {}
    for character, count in itertools.chain.from_iterable(split.characters.items() for split in splits):
        total[character] = total.get(character, 0) + count
    characters = list(total)
    if len(characters) > MAX_CLASSES:
        ordered = sorted(characters, key=lambda character: -total[character])
        characters = ordered[: MAX_CLASSES // 2] + ordered[-MAX_CLASSES // 2 :]
    shares = {
        split.split: [split.characters.get(character, 0) / max(sum(split.characters.values()), 1) for character in characters]
        for split in splits
    }
    return {"characters": characters, "shares": shares, "hidden": len(total) - len(characters)}
