"""What labels cost, from simulated fits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.label_cost import LabelCost
from components.evaluation.learning_curve import Fitted


def error(pictures: float) -> float:
    """Returns a share of misread texts: no power law over the whole range, because few labels teach nothing."""
    return -math.expm1(-(0.02 + 12 * pictures**-0.5 / (1 + (pictures / 80) ** 0.6)))


def fits(sizes: list[int], read: int = 2_000, draws: int = 3) -> list[list[Fitted]]:
    return [[Fitted(size, read, round(read * error(size)))] * draws for size in sizes]


SIZES = [12, 25, 50, 100, 200, 400]


@pytest.mark.slow
@pytest.mark.parametrize("goal", [0.1, 0.5, 0.8])
def test_labels_within_the_measured_sizes_are_found(goal: float) -> None:
    numbers = np.geomspace(5, 5_000, 2_000)
    truth = float(numbers[np.argmax([1 - error(number) >= goal for number in numbers])])
    found = LabelCost(fits(SIZES)).labels_for(goal)
    assert found.lower <= truth <= found.upper
    assert 1 / 1.3 < found.value / truth < 1.3


def test_the_curve_has_no_jumps_and_meets_what_was_measured() -> None:
    cost = LabelCost(fits(SIZES[2:]))
    assert (cost.fewest, cost.most) == (50, 400)
    for size in SIZES[2:]:
        below, there, above = (cost.accuracy(size * factor).value for factor in (0.99, 1, 1.01))
        assert there == pytest.approx(1 - error(size), abs=0.04)
        assert below == pytest.approx(there, abs=0.03)
        assert above == pytest.approx(there, abs=0.03)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=1, max_size=3))
def test_a_higher_accuracy_never_costs_fewer_labels(misread: list[int]) -> None:
    cost = LabelCost([[Fitted(20 * 4**place, 500, wrong)] for place, wrong in enumerate(misread)])
    found = [cost.labels_for(goal) for goal in (0.05, 0.1, 0.5, 0.9, 0.999)]
    for it in found:
        assert 1 <= it.lower <= it.value <= it.upper
        assert math.isinf(it.upper) or it.upper <= cost.farthest * 1.001
    for bound in ("lower", "value", "upper"):
        numbers = [getattr(it, bound) for it in found]
        assert numbers == sorted(numbers)


def test_what_no_fit_comes_near_is_infinite() -> None:
    cost = LabelCost([[Fitted(20, 500, 500)], [Fitted(40, 500, 500)]])
    assert math.isinf(cost.labels_for(0.999).upper)
