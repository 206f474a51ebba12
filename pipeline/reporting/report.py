"""The report of a run: one HTML file that needs nothing else, neither the network nor JavaScript.

It knows plain data alone; who calls `write_report` gathers them. The figures are SVG made by the templates, so that their text is
text: the browser finds the glyphs for any charset. Labels, file names and pictures come from strangers: text is escaped, and a
picture is decoded, within bounds, and written anew as a small PNG.
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
from components.evaluation.gate import BEST, SetResult
from components.evaluation.metrics import Rate, Results
from pipeline.reporting import filters

MAX_MISREAD: Final = 48  # pictures in the gallery
MAX_QUARANTINED: Final = 3  # examples a reason
MAX_CLASSES: Final = 40  # rows of a table or of the confusion map, beyond which nobody can read it
MAX_PAIRS: Final = 12  # rows of the table of confused pairs


@dataclass(frozen=True)
class Step:
    """A step of the run. `seconds` is None where it is not known; `state` is one of history's: done, cached, failed, …

    `engine` is what it ran on, "" for the machine of the run.
    """

    node: str
    state: str
    seconds: float | None
    engine: str = ""


@dataclass(frozen=True)
class Slice:
    """A part of the test split, such as group "difficulty", name "low contrast": its accuracy over `count` examples."""

    group: str
    name: str
    count: int
    accuracy: Rate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What the Evaluator found on the test split.

    `classes` names the model's classes in order; "" is the blank, "no character here", and the last. `baseline` is the full-sequence
    accuracy of the model in production on the same pictures. `sets` are those that the model was judged by, such as "golden set"; on the
    one named BEST it is compared with another model than that in production.
    `confidence` is that of all intervals.
    """

    results: Results
    classes: Sequence[str]
    slices: Sequence[Slice] = ()
    baseline: Rate | None = None
    sets: Mapping[str, SetResult] = field(default_factory=dict)
    confidence: float = 0.95


@dataclass(frozen=True)
class Misread:
    picture: bytes
    truth: str
    prediction: str
    confidence: float


@dataclass(frozen=True)
class QuarantineExample:
    """One refused record. `picture` is None where it held none; it may hold anything at all."""

    file: str
    index: int
    detail: str
    picture: bytes | None


@dataclass(frozen=True)
class QuarantineReason:
    reason: str
    count: int
    examples: Sequence[QuarantineExample]


@dataclass(frozen=True)
class Quarantine:
    """The records that were left out. `overlap` are right, but the test or eval split has the same picture: they do not count as bad."""

    total: int
    bad: int
    reasons: Sequence[QuarantineReason]
    overlap: Sequence[QuarantineReason] = ()


@dataclass(frozen=True)
class Summary:
    """Of a number over a split."""

    mean: float
    std: float
    min: float
    max: float


@dataclass(frozen=True)
class SplitStatistics:
    """`characters` counts them over all labels of the split; `numbers` are summaries by name, such as "brightness"."""

    split: str
    count: int
    characters: Mapping[str, int]
    numbers: Mapping[str, Summary]


@dataclass(frozen=True, eq=False)
class Drift:
    """How far the span `newest` is from the others of the window.

    `distances` holds value and threshold by measure; `histograms`, by measure, the shares of the grey levels, of the newest span and of
    the others. Both are empty where there was no other span.
    """

    newest: str
    distances: Mapping[str, tuple[float, float | None]]
    histograms: Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """All that the report shows. What is empty or None is said to be missing.

    `history` has one mapping an epoch: loss, val_loss, sequence_accuracy, val_sequence_accuracy, val_cross_entropy,
    seconds; each may be missing.
    `failures` says in words what kept the model from being blessed, or the run from finishing; `warnings` what else to know of the figures;
    `advice` what would help a model that is under the floor; `base_problem` what kept its fit from going on from the model in
    production, "" for nothing.
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
    """Writes the report to `path` as UTF-8, whole or not at all, and makes the folder if need be."""
    evaluation = inputs.evaluation
    html = filters.template("report.html.j2").render(
        inputs=inputs,
        evaluation=evaluation,
        # The most confident mistakes say most about what the model cannot know.
        misread_total=_misread_total(inputs),
        misread=sorted(inputs.misread, key=lambda misread: -misread.confidence)[:MAX_MISREAD],
        confusion=_confusion_map(evaluation) if evaluation else None,
        pairs=_confused_pairs(evaluation) if evaluation else [],
        scores=_scores(evaluation) if evaluation else [],
        scale=_error_scale(evaluation) if evaluation else 1.0,
        reliability=_reliability(evaluation.results) if evaluation else [],
        distribution=_distribution(inputs.splits),
        BEST=BEST,
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
    """The end of the axis of error rates: every bar fits, though not every interval of a slice of few pictures."""
    results = evaluation.results
    values = [rate.value for rate in (*results.position_accuracy, *(part.accuracy for part in evaluation.slices))]
    return filters.nice_ceiling(max(1 - share for share in (results.sequence_accuracy.lower, *values) if not math.isnan(share)))


def _confusion_map(evaluation: Evaluation) -> dict[str, object]:
    """The classes to draw, in order, and the cells that are not zero, with each cell's share of its row's occurrences."""
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
    """The commonest mistakes: truth, reading, count, share of the truth's occurrences."""
    occurrences = _occurrences(evaluation)
    matrix, classes = evaluation.results.confusion_matrix, evaluation.classes
    truths, readings, times = _mistakes(matrix)
    commonest = np.argsort(-times, kind="stable")[:MAX_PAIRS]
    return [
        (classes[i], classes[j], int(count), float(count / occurrences[i]))
        for i, j, count in zip(truths[commonest], readings[commonest], times[commonest], strict=True)
    ]


def _occurrences(evaluation: Evaluation) -> npt.NDArray[np.int64]:
    """How often each class is in the labels, int64 [num_classes]. Each label has one end, after which nothing should be read."""
    counts: npt.NDArray[np.int64] = evaluation.results.confusion_matrix.sum(axis=1)
    return np.where([name == "" for name in evaluation.classes], evaluation.results.example_count, counts)


def _mistakes(matrix: csr_array) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """The cells off the diagonal that are not zero, row by row: truth, reading and how often, each int [cells]."""
    cells = matrix.tocoo()
    wrong = np.flatnonzero((cells.row != cells.col) & (cells.data != 0))
    wrong = wrong[np.lexsort((cells.col[wrong], cells.row[wrong]))]
    return cells.row[wrong], cells.col[wrong], cells.data[wrong]


def _scores(evaluation: Evaluation) -> list[tuple[str, int, float, float]]:
    """Character, occurrences, precision and recall: all in class order if they fit a table, else those with the lowest recall."""
    results = evaluation.results
    support = results.confusion_matrix.sum(axis=1).tolist()
    precision, recall = results.character_precision.tolist(), results.character_recall.tolist()
    characters = evaluation.classes[: len(recall)]
    scores = list(zip(characters, support[: len(recall)], precision, recall, strict=True))
    if len(scores) <= MAX_CLASSES:
        return scores
    return sorted((score for score in scores if score[1]), key=lambda score: score[3])[:MAX_CLASSES]


def _reliability(results: Results) -> list[dict[str, float]]:
    """The bins of confidence that are not empty."""
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
    """Each character's share of each split; of a large charset the commonest and the rarest."""
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
