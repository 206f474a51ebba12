"""When a model is good enough."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.judgement import ALL, GOLDEN, NEWEST, Comparison, Rules, judge
from components.metrics import ReadingCounts

RULES = Rules(min_sequence_accuracy=0.9, max_regression=0.02, max_slice_regression=0.05, confidence=0.95)


def comparison(both: int, only_challenger: int, only_champion: int, neither: int = 0) -> Comparison:
    """Of two models, by how many pictures both, one or none of them read whole."""

    def results(right: int, count: int):
        counts = ReadingCounts(1, 2)
        counts.add_readings(np.zeros((count, 1), int), (np.arange(count) >= right).astype(int)[:, None], np.ones(count))
        return counts.results(0.95)

    count = both + only_challenger + only_champion + neither
    return Comparison(results(both + only_challenger, count), results(both + only_champion, count), only_challenger, only_champion)


def alone(right: int, wrong: int) -> Comparison:
    return Comparison(comparison(right, 0, 0, wrong).challenger)


def test_mcnemar() -> None:
    # Exact, two-sided: 2 * (1 + 10) / 2^10, and 2 / 2^10.
    assert comparison(50, 1, 9).p_value == pytest.approx(22 / 1024)
    assert comparison(50, 10, 0).p_value == pytest.approx(2 / 1024)
    assert comparison(50, 3, 3).p_value == 1.0
    assert comparison(50, 0, 0).p_value == 1.0
    assert alone(9, 1).p_value is None


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_symmetric(left: int, right: int) -> None:
    p = comparison(1, left, right).p_value
    assert p is not None
    assert p == pytest.approx(comparison(1, right, left).p_value)
    assert 0 <= p <= 1 + 1e-12


def test_the_floor_is_on_every_set() -> None:
    assert judge({ALL: alone(95, 5)}, {}, RULES) == []
    assert judge({ALL: alone(90, 10)}, {}, RULES) == []
    failures = judge({ALL: alone(95, 5), NEWEST: alone(80, 20), GOLDEN: alone(89, 11)}, {}, RULES)
    assert failures == [
        "the full-sequence accuracy on the newest span is 80.00%, under the floor of 90.00%",
        "the full-sequence accuracy on the golden set is 89.00%, under the floor of 90.00%",
    ]
    assert len(judge({ALL: alone(0, 0)}, {}, RULES)) == 1, "of no pictures nothing is known"


def test_it_may_be_below_production_by_the_margin() -> None:
    assert judge({ALL: comparison(960, 0, 4, 36)}, {}, RULES) == [], "by chance"
    (failure,) = judge({GOLDEN: comparison(940, 0, 21, 39)}, {}, RULES)
    assert (
        failure == "the full-sequence accuracy on the golden set is 94.00%, 2.10% below that of the model in production; 2.00% are allowed"
    )


def test_within_the_margin_but_not_by_chance_it_must_be_better_elsewhere() -> None:
    worse = comparison(980, 1, 11, 8)
    (failure,) = judge({ALL: comparison(960, 3, 3, 36), GOLDEN: worse}, {}, RULES)
    assert "not by chance: 11 pictures are lost, 1 gained (p = 0.0063)" in failure
    assert judge({NEWEST: comparison(600, 350, 0, 50), GOLDEN: worse}, {}, RULES) == [], "what it has to learn costs a little elsewhere"


def test_no_slice_may_be_forgotten() -> None:
    sets = {ALL: comparison(960, 20, 10, 10)}
    fine = comparison(90, 0, 0, 10)
    assert judge(sets, {"a": comparison(90, 0, 4, 6), "b": fine}, RULES) == [], "within the margin"
    assert judge(sets, {"a": comparison(10, 0, 2), "b": fine}, RULES) == [], "more than the margin, of so few pictures by chance"
    (failure,) = judge(sets, {"slice 7 of characters": comparison(80, 0, 20), "b": fine}, RULES)
    assert failure == (
        "the full-sequence accuracy on the slice 7 of characters has fallen by 20.00%, to 80.00% of 100; 5.00% are allowed for one slice"
    )


def test_the_more_slices_the_more_certain_it_must_be() -> None:
    fallen = comparison(90, 1, 9)  # p = 0.021
    assert len(judge({}, {"a": fallen}, RULES)) == 1
    assert judge({}, {str(i): fallen if i == 0 else comparison(90, 0, 0, 10) for i in range(10)}, RULES) == []
