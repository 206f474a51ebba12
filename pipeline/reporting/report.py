"""The report of a run: one self-contained HTML file, without network access or JavaScript.

This module takes plain data, which the caller of `write_report` collects. The templates draw figures as SVG with real text, so that the
browser finds glyphs for any charset. Labels, file names and pictures are untrusted input: text is escaped; pictures are decoded within
limits and encoded again as small PNGs.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from components.base.files import write_whole
from components.evaluation.gate import BEST
from components.evaluation.metrics import Results
from pipeline.reporting import filters
from pipeline.reporting.content import Evaluation, ReportInputs, SplitStatistics
from pipeline.reporting.figures import FIGURES

MAX_MISREAD: Final = 48  # pictures in the gallery
MAX_QUARANTINED: Final = 3  # examples per reason
MAX_CLASSES: Final = 40  # rows of a table or of the confusion map; more would be illegible
MAX_PAIRS: Final = 12  # rows of the table of confused pairs


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
        pairs=confused_pairs(evaluation) if evaluation else [],
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


def confused_pairs(evaluation: Evaluation) -> list[tuple[str, str, int, float]]:
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
