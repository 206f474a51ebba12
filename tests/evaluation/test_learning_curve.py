"""Learning curves from simulated fits, whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.evaluation.learning_curve import FARTHEST, LEVEL, Fitted, LearningCurve, round_up

SIZES = (40, 80, 160) * 4


def error(exponent: float, level: float, floor: float, pictures: float) -> float:
    """Returns the share of misread texts: `level` misread characters at 160 pictures that labels can remove, `floor` others."""
    return -math.expm1(-(level * (pictures / 160) ** -exponent + floor))


def simulate(rng: np.random.Generator, curve: tuple[float, float, float], spread: float, sizes: tuple[int, ...] = SIZES) -> list[Fitted]:
    """Returns fits whose log-odds of an error vary by `spread`."""
    fits = []
    for pictures in sizes:
        odds = math.log(1 / error(*curve, pictures) - 1) + rng.normal(0, spread)
        fits.append(Fitted(pictures, 320 - pictures, int(rng.binomial(320 - pictures, 1 / (1 + math.exp(odds))))))
    return fits


@pytest.mark.slow
def test_the_interval_has_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(150):
        curve = math.exp(rng.normal(math.log(0.65), 0.4)), math.exp(rng.uniform(math.log(0.03), math.log(0.8))), 10 ** rng.uniform(-4, -1.7)
        spread = float(rng.choice([0.1, 0.2, 0.3]))
        found = LearningCurve(simulate(rng, curve, spread)).accuracy(640)
        hits += found.lower <= 1 - error(*curve, 640) <= found.upper
    # The bounds hold for the truth, not for one fit, which varies more: the share may be a little above the level. Of 150 draws with a
    # chance of 0.8, fewer than 105 are in the interval once in a thousand times.
    assert 105 <= hits <= 145
    assert LEVEL == 0.8


def test_many_fits_without_noise_give_the_curve_back() -> None:
    curve = 0.7, 0.2, 0.001
    fits = [Fitted(n, 10**6, round(10**6 * error(*curve, n))) for n in (40, 80, 160)]
    found = LearningCurve(fits)
    assert found.accuracy(160).value == pytest.approx(1 - error(*curve, 160), abs=0.01)
    assert found.accuracy(320).value == pytest.approx(1 - error(*curve, 320), abs=0.02)
    needed = found.pictures_for(0.95)
    wanted = 160 * (0.2 / (-math.log(0.95) - 0.001)) ** (1 / 0.7)
    assert needed.lower < wanted < needed.upper
    assert needed.value == pytest.approx(wanted, rel=0.4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(10, 5_000), st.integers(1, 2_000), st.floats(0, 1)), min_size=1, max_size=4), st.integers(1, 10**6))
def test_every_result_of_fits_gives_an_answer(rows: list[tuple[int, int, float]], pictures: int) -> None:
    curve = LearningCurve([Fitted(n, read, round(share * read)) for n, read, share in rows])
    found = curve.accuracy(pictures)
    assert 0 <= found.lower <= found.value <= found.upper <= 1
    needed = [curve.pictures_for(goal) for goal in (0.5, 0.9, 0.99, 1.0)]
    for it in needed:
        assert 0 <= it.lower <= it.value <= it.upper
    assert [it.value for it in needed] == sorted(it.value for it in needed)
    assert all(math.isinf(it.value) or it.value <= FARTHEST * max(n for n, _, _ in rows) for it in needed)
    assert math.isinf(needed[-1].value)


def test_fits_that_have_learned_nothing_do_not_make_the_curve_steep() -> None:
    """A model of 40 pictures is at chance, and from 80 on accuracy grows slowly: a power law through all of them would be far too good."""
    truth = 0.3, 0.5, 0.002  # exponent, misread characters at 160, floor
    fits = [Fitted(40, 280, 280)] * 4 + [Fitted(n, 320 - n, round((320 - n) * error(*truth, n))) for n in (80, 80, 160)]
    found = LearningCurve(fits).accuracy(640)
    assert found.lower <= 1 - error(*truth, 640) <= found.upper
    assert LearningCurve(fits).learned
    assert not LearningCurve(fits[:4]).learned


def test_a_plateau_of_wrong_labels_is_in_the_interval() -> None:
    truth = 0.7, 0.15, 0.06
    fits = [Fitted(n, 320 - n, round((320 - n) * error(*truth, n))) for n in SIZES[:3] * 2]
    found = LearningCurve(fits).accuracy(640)
    assert found.lower <= 1 - error(*truth, 640) <= found.upper


def test_an_accuracy_on_few_pictures_varies_more() -> None:
    curve = LearningCurve(simulate(np.random.default_rng(4), (0.7, 0.2, 0.001), 0.1, SIZES * 2))
    truth, few, many = curve.accuracy(320), curve.accuracy(320, 50), curve.accuracy(320, 10**6)
    assert few.upper - few.lower > 1.5 * (truth.upper - truth.lower)
    assert (many.lower, many.upper) == pytest.approx((truth.lower, truth.upper), abs=0.005)


def test_the_same_fits_need_as_many_labels_and_worse_fits_need_more() -> None:
    fit = Fitted(150, 1_000, 400)
    same, worse = (LearningCurve([other]).pictures_like(LearningCurve([fit]), 150) for other in (fit, Fitted(150, 1_000, 700)))
    assert same.value == pytest.approx(150, rel=0.1)
    assert 1.1 < same.upper / 150 < 3  # neither of the two accuracies is known exactly
    assert worse.value > 1.5 * same.value
    assert worse.lower > 150


def test_more_fits_give_a_narrower_interval_and_more_labels_a_higher_accuracy() -> None:
    rng = np.random.default_rng(2)
    fits = simulate(rng, (0.7, 0.3, 0.001), 0.1, SIZES * 3)
    one, many = LearningCurve(fits[2:3]), LearningCurve(fits)
    assert many.accuracy(640).upper - many.accuracy(640).lower < one.accuracy(640).upper - one.accuracy(640).lower
    values = [many.accuracy(n).value for n in (40, 160, 640, 2560)]
    assert values == sorted(values)


def test_the_same_fits_give_the_same_answer() -> None:
    fits = simulate(np.random.default_rng(3), (0.5, 0.3, 0.001), 0.1)
    curves = LearningCurve(fits), LearningCurve(fits)
    assert curves[0].accuracy(500) == curves[1].accuracy(500) == curves[0].accuracy(500)


@pytest.mark.parametrize(("number", "expected"), [(0.2, 1), (7.3, 8), (99.1, 100), (1_434, 1_500), (1_500, 1_500), (12_001, 13_000)])
def test_extrapolated_numbers_have_two_digits(number: float, expected: int) -> None:
    assert round_up(number) == expected
