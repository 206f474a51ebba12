import numpy as np
import pytest

from components.evaluation.advice import advise
from components.evaluation.metrics import ReadingCounts, Results

CLASSES = [*"0123456789", ""]


def results(mistakes: list[tuple[str, str]], right: int) -> Results:
    """Returns the results of labels of one character: mistakes as (truth, reading), and `right` correct readings of a 7."""
    counts = ReadingCounts(1, len(CLASSES), min_length=0)
    truths, readings = zip(*mistakes, *[("7", "7")] * right, strict=True)
    truth, reading = (np.array([[CLASSES.index(text)] for text in texts]) for texts in (truths, readings))
    counts.add_readings(truth, reading, np.full(len(truths), 0.9))
    return counts.results(0.95)


def epoch(sequence_accuracy: float) -> list[dict[str, float]]:
    return [{"sequence_accuracy": sequence_accuracy}]


def test_no_advice_if_the_floor_is_reached() -> None:
    assert advise(results([("0", "1")], 99), CLASSES, epoch(1.0), 200, 0, 0.98, [0.5]) == []


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (0.96, "about 760 training pictures instead of 200"),
        (0.98, "about 6,700 training pictures instead of 200"),
        (1.0, "more than 50 times the 200"),
    ],
)
def test_overfitting_suggests_more_labels(floor: float, expected: str) -> None:
    mistakes = [(str(digit), str((digit + 1) % 10)) for digit in range(8)]
    first, *rest = advise(results(mistakes, 92), CLASSES, epoch(0.999), 200, 0, floor, [0.6] * 8)
    assert first.startswith("More labels help most: the model reads 99.9% of its training pictures, but only 92.0% of others.")
    assert expected in first
    assert [word for line in rest for word in ("synth fit", "data pseudo") if word in line] == ["synth fit", "data pseudo"]
    with_drawn = advise(results(mistakes, 92), CLASSES, epoch(0.999), 200, 20_000, floor, [0.6] * 8)
    assert with_drawn == [first, rest[1]], "there are drawn pictures already"


@pytest.mark.parametrize(("right", "pictures"), [(92, 5_000), (30, 200)])
def test_models_label_pictures_only_if_labels_are_few_and_models_agree(right: int, pictures: int) -> None:
    mistakes = [(str(digit), str((digit + 1) % 10)) for digit in range(8)] * 9
    advice = advise(results(mistakes[: 100 - right], right), CLASSES, epoch(0.999), pictures, 0, 0.98, [])
    assert advice[0].startswith("More labels help most")
    assert not any("data pseudo" in line for line in advice)


def test_underfitting_suggests_a_longer_fit() -> None:
    first, *_ = advise(results([("0", "1"), ("2", "3")] * 20, 60), CLASSES, epoch(0.61), 5_000, 0, 0.98, [])
    assert first.startswith("Make the fit longer")


def test_a_model_at_chance_suggests_checking_the_data() -> None:
    (only,) = advise(results([("7", "1")] * 90, 10), CLASSES, epoch(0.1), 5_000, 0, 0.98, [0.99])
    assert "no better than by guessing" in only


def test_confident_mistakes_suggest_checking_the_labels() -> None:
    mistakes = [(str(digit), str((digit + 1) % 10)) for digit in range(8)]
    advice = advise(results(mistakes, 92), CLASSES, epoch(0.93), 5_000, 0, 0.98, [0.99, 0.97, *[0.6] * 6])
    assert any("2 of the 8 misread pictures" in line for line in advice)


@pytest.mark.parametrize(
    ("truth", "reading", "expected"),
    [("0", "8", "4 of 6 mistakes are '8' for '0'"), ("", "1", "after the end of the text"), ("5", "", "'5' that the model leaves out")],
)
def test_the_most_frequent_confusion_is_named(truth: str, reading: str, expected: str) -> None:
    advice = advise(results([(truth, reading)] * 4 + [("2", "3"), ("3", "4")], 94), CLASSES, epoch(0.94), 5_000, 0, 0.98, [])
    assert expected in advice[-1]
