"""Gives advice on a model that reads too few pictures, in sentences, from the results of its run."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from components.evaluation.learning_curve import FARTHEST, Fitted, LearningCurve, round_up
from components.evaluation.metrics import Results

_AT_CHANCE: Final = 2.0  # below this many times the accuracy of guessing, a model has learned nothing
_CLEARLY: Final = 0.02  # a difference of accuracies above this is clear
# Readings with at least this confidence are sure: at most one in five should be wrong. It is not higher, because many wrong labels in the
# data keep all confidences low.
_SURE: Final = 0.8
# A kind of mistake is common if it is at least this share of all mistakes, and occurs at least this many times; fewer may be chance.
_COMMON: Final = 0.15
_FEW: Final = 3
# With 50 labels of a public set, five models agreed on 83 % of 5,000 other pictures, and with 200 on 99 % (benchmarks/few_labels.py).
# Models that misread most pictures hardly agree on any.
_FEW_LABELS: Final = 1_000
_AGREES: Final = 0.5
_WITHOUT_LABELS: Final = (
    "Pictures without labels help as well, if you have many: `captcha-pipeline data pseudo FOLDER` labels those on which models agree."
)
_LIKE_YOURS: Final = "Drawn pictures help as well, if they look like yours: `captcha-pipeline synth fit FOLDER` finds out how to draw them."
_LOOK_AT_THE_DATA: Final = (
    "The model reads no better than by guessing. Look at some pictures with their labels: do they match, and do captcha.length, "
    "captcha.charset and captcha.case_sensitive suit them? If so, make the fit longer: double trainer.epochs."
)


def advise(
    results: Results,
    classes: Sequence[str],
    history: Sequence[Mapping[str, float]],
    pictures: int,
    drawn: int,
    floor: float,
    wrong: Sequence[float],
) -> list[str]:
    """Returns advice on how to raise the accuracy of a model above the floor, the most promising advice first.

    Args:
      results: on the test split.
      classes: the character of each of the model's classes, in order; "" for the blank.
      history: a row for each epoch of the fit, as the Trainer writes it.
      pictures: the number of pictures in the train split, without drawn ones beside others.
      drawn: the number of drawn pictures in the train split.
      floor: the least full-sequence accuracy that is wanted, 0 to 1.
      wrong: the confidences, 0 to 1, of the readings that differ from their label.

    Returns:
      [] if the model is not below the floor, if its accuracy or its history is unknown, or if nothing stands out.
    """
    accuracy = results.sequence_accuracy.value
    if math.isnan(accuracy) or accuracy >= floor or not history:
        return []
    fitted = history[-1].get("sequence_accuracy", math.nan)
    if results.character_accuracy < _AT_CHANCE / len(classes):
        return [_LOOK_AT_THE_DATA]
    advice = []
    if fitted > accuracy + _CLEARLY:
        advice.append(
            f"More labels help most: the model reads {fitted:.1%} of its training pictures, but only {accuracy:.1%} of others. "
            + _labels(pictures, results, floor)
        )
        if pictures < _FEW_LABELS and not drawn:
            advice.append(_LIKE_YOURS)
        if pictures < _FEW_LABELS and accuracy >= _AGREES:
            advice.append(_WITHOUT_LABELS)
    elif fitted < floor:
        advice.append(
            f"Make the fit longer: the model reads only {fitted:.1%} even of its training pictures. Double trainer.epochs, "
            "or use larger pictures (captcha.width and captcha.height) if a person finds them hard to read at this size."
        )
    if sure := sum(confidence >= _SURE for confidence in wrong):
        advice.append(
            f"Check labels: {sure} of the {len(wrong)} misread pictures in the report have a confidence of {_SURE:.0%} or more. "
            "Their labels may be wrong. `captcha-pipeline audit` looks through all labels."
        )
    return advice + _confusion(results, classes)


def _labels(pictures: int, results: Results, floor: float) -> str:
    misread = round(results.example_count * (1 - results.sequence_accuracy.value))
    needed = LearningCurve([Fitted(pictures, results.example_count, misread)]).pictures_for(floor).value
    if math.isinf(needed):
        return f"Reaching {floor:.1%} takes more than {FARTHEST} times the {pictures:,} training pictures."
    about = f"Reaching {floor:.1%} takes about {round_up(needed):,} training pictures instead of {pictures:,}."
    return f"{about} `captcha-pipeline plan` makes a better estimate."


def _confusion(results: Results, classes: Sequence[str]) -> list[str]:
    cells = results.confusion_matrix.tocoo()
    wrong = cells.row != cells.col
    counts = np.where(wrong, cells.data, 0)
    total, commonest = int(counts.sum()), int(counts.argmax()) if counts.size else 0
    if total == 0 or counts[commonest] < max(_FEW, _COMMON * total):
        return []
    truth, reading = classes[cells.row[commonest]], classes[cells.col[commonest]]
    if not truth:
        what = f"are a '{reading}' after the end of the text. Does every label contain all characters of its picture?"
    elif not reading:
        what = f"are a '{truth}' that the model leaves out, most often at the end of a text. Do the pictures show the whole text?"
    else:
        what = (
            f"are '{reading}' for '{truth}'. Add labels with these two characters. If nobody can tell them apart, use one character "
            "for both in the labels."
        )
    return [f"{counts[commonest]} of {total} mistakes {what}"]
