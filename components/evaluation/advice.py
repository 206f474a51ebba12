"""What to do about a model that reads too little: sentences, from what its run has found. Plain data in and out."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from components.evaluation.metrics import Results

# Errors fall with the number of labels to about this power: docs/recipe.md, "How many labels".
_ERRORS_BY_LABELS: Final = -0.7
_MOST_LABELS: Final = 50  # times as many: further than that nothing was measured
_AT_CHANCE: Final = 2.0  # times what guessing gives
_CLEARLY: Final = 0.02
# Of readings so sure one in five is wrong at most, labels included: where many labels are wrong, no reading is surer than they allow.
_SURE: Final = 0.8
_COMMON: Final = 0.15  # of all wrong characters
_FEW: Final = 3  # mistakes of a kind may be chance
_LOOK_AT_THE_DATA: Final = (
    "The model reads no better than by guessing. Look at some pictures with their labels: do they belong together, and do captcha.length, "
    "captcha.charset and captcha.case_sensitive suit them? If so, make the fit longer: double trainer.epochs."
)


def advise(
    results: Results,
    classes: Sequence[str],
    history: Sequence[Mapping[str, float]],
    pictures: int,
    floor: float,
    wrong: Sequence[float],
) -> list[str]:
    """Returns what would help most to get a model above the floor, the most promising first; [] where it is not under it.

    Args:
      results: on the test split.
      classes: the characters of the model's classes in order; "" for the blank.
      history: of the fit, as the Trainer writes it.
      pictures: in the training split.
      floor: of the full-sequence accuracy, 0 to 1.
      wrong: the confidences, 0 to 1, of the readings that differ from their label.
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
            f"More labels help most: of the pictures that it was fitted to, the model reads {fitted:.1%}, of others {accuracy:.1%}. "
            + _labels(pictures, accuracy, floor)
        )
    elif fitted < floor:
        advice.append(
            f"Make the fit longer: even of the pictures that it was fitted to, the model reads only {fitted:.1%}. Double trainer.epochs, "
            "or take larger pictures (captcha.width and captcha.height) if a person finds them hard to read at this size."
        )
    if sure := sum(confidence >= _SURE for confidence in wrong):
        advice.append(
            f"Check labels: {sure} of the {len(wrong)} misread pictures that the report shows are read otherwise with a confidence of "
            f"{_SURE:.0%} or more. The label may be what is wrong there."
        )
    return advice + _confusion(results, classes)


def _labels(pictures: int, accuracy: float, floor: float) -> str:
    times = ((1 - floor) / (1 - accuracy)) ** (1 / _ERRORS_BY_LABELS) if floor < 1 else math.inf
    if times > _MOST_LABELS:
        return f"For {floor:.1%} it takes more than {_MOST_LABELS} times the {pictures:,} that it was fitted to."
    digits = 10 ** max(0, math.floor(math.log10(pictures * times)) - 1)
    return f"For {floor:.1%} it takes about {math.ceil(pictures * times / digits) * digits:,} to fit to, in place of {pictures:,}."


def _confusion(results: Results, classes: Sequence[str]) -> list[str]:
    cells = results.confusion_matrix.tocoo()
    wrong = cells.row != cells.col
    counts = np.where(wrong, cells.data, 0)
    total, commonest = int(counts.sum()), int(counts.argmax()) if counts.size else 0
    if total == 0 or counts[commonest] < max(_FEW, _COMMON * total):
        return []
    truth, reading = classes[cells.row[commonest]], classes[cells.col[commonest]]
    if not truth:
        what = f"are a '{reading}' after the end of the text. Does the label of every picture hold all its characters?"
    elif not reading:
        what = f"are a '{truth}' that is left out, most at the end of a text. Do the pictures show it whole?"
    else:
        what = (
            f"are '{reading}' for '{truth}'. Get more labels with these two; or, if nobody can tell them apart, use one for both in "
            "the labels."
        )
    return [f"{counts[commonest]} of {total} mistakes {what}"]
