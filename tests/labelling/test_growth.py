"""How many more labels a goal needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.labelling.growth import Point, more_labels, outlook


def points(level: float, power: float, count: int, labels: list[int]) -> list[Point]:
    """Returns models whose share of errors is exactly level * labels ** power, up to whole pictures."""
    return [Point(i, n, round(count * (1 - level * n**power)), count) for i, n in enumerate(labels)]


@pytest.mark.parametrize("power", [-0.5, -0.7, -0.9])
def test_many_test_pictures_show_the_power(power: float) -> None:
    level = 0.5 / 60**power
    known = points(level, power, 20_000, [60, 110, 160, 210, 400])
    needed = more_labels(known, 0.97, 400)
    assert needed is not None
    assert 400 + needed == pytest.approx((0.03 / level) ** (1 / power), rel=0.35)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 300), st.integers(0, 300)), max_size=8), st.floats(0, 1))
def test_the_answer_is_a_number_or_none(rows: list[tuple[int, int, int]], goal: float) -> None:
    known = [Point(i, labels, min(right, count), count) for i, (labels, right, count) in enumerate(sorted(rows))]
    needed = more_labels(known, goal, 110)
    assert needed is None or needed >= 0
    assert "nan" not in outlook(known, goal, 0.95, 60, 5000)


def test_a_higher_goal_needs_more() -> None:
    known = [Point(1, 60, 20, 40), Point(2, 110, 28, 42)]
    needed = [more_labels(known, goal, 110) for goal in (0.5, 0.7, 0.8, 0.9, 0.95)]
    assert needed == sorted(needed, key=lambda it: it or 0)
    assert needed[0] == 0
    assert more_labels(known, 1.0, 110) is None
    assert more_labels(known, 0.9999, 110) is None  # more than 50 times as many


def test_a_model_from_production_can_have_reached_the_goal() -> None:
    """It was made without labels of the folder, so it is no point of the curve."""
    assert more_labels([Point(1, 0, 40, 40)], 0.9, 0) == 0
    assert more_labels([Point(1, 0, 30, 40)], 0.9, 0) is None


def test_labels_since_the_training_count() -> None:
    known = [Point(1, 60, 20, 40), Point(2, 110, 28, 42)]
    needed = more_labels(known, 0.9, 110)
    assert needed is not None
    later = more_labels(known, 0.9, 150)
    assert later is not None
    assert 30 <= needed - later <= 50  # both are rounded up


def test_models_that_have_learned_nothing_say_nothing() -> None:
    known = [Point(1, 60, 0, 40), Point(2, 110, 1, 42)]
    assert more_labels(known, 0.9, 110) is None
    assert "cannot be estimated" in outlook(known, 0.9, 0.95, 110, 5000)


def test_the_outlook_in_words() -> None:
    assert outlook([], 0.98, 0.95, 60, 5000) == outlook([Point(1, 60, 0, 0)], 0.98, 0.95, 60, 5000) == ""
    assert outlook([Point(1, 60, 30, 40)], 0.9, 0.95, 60, 5000).startswith("About ")
    assert outlook([Point(1, 60, 30, 40)], 0.9, 0.95, 60, 5000).endswith(" more labels to reach 90 %.")
    assert (
        outlook([Point(1, 60, 60, 60)], 0.98, 0.95, 60, 5000) == "The goal of 98 % is probably reached; more labels would make it certain."
    )
    few = outlook([Point(1, 60, 4, 4)], 0.98, 0.95, 60, 5000)
    assert few == "The newest model reads 4 of 4 random pictures right. More labels will show whether it reaches 98 %."
    assert outlook([Point(1, 60, 1000, 1000)], 0.98, 0.95, 60, 5000) == "The goal of 98 % is reached."
    assert "cannot be estimated" in outlook([Point(1, 60, 0, 40)], 0.999, 0.95, 60, 5000)
    assert outlook([Point(1, 60, 30, 40)], 0.9, 0.95, 60, 9).endswith(" to reach 90 %; the folder has only 9 pictures left.")
    for right in range(20, 36):
        (number, *_) = [word for word in outlook([Point(1, 60, right, 40)], 0.9, 0.95, 60, 5000).split() if word[0].isdigit()]
        assert int(number.replace(",", "")) % 10 == 0  # rounded, because it is only about right
