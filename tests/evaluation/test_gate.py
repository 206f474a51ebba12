"""The rules that decide whether a model is good enough to be pushed."""

import bisect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from components.evaluation.gate import ALL, GOLDEN, NEWEST, BestSoFar, Comparison, Gate, judge
from components.evaluation.metrics import wilson_interval

GATE = Gate(min_sequence_accuracy=0.9, max_regression=0.02, max_slice_regression=0.05, confidence=0.95, min_pictures=50)
DEFAULTS = Gate()


def comparison(both: int, only_candidate: int, only_production: int, neither: int = 0) -> Comparison:
    """Returns a comparison of two models, from the numbers of pictures that both, one or neither of them read correctly."""
    count = both + only_candidate + only_production + neither
    ours, theirs = (wilson_interval(both + one, count, 0.95) for one in (only_candidate, only_production))
    return Comparison(count, ours, theirs, only_candidate, only_production)


def alone(right: int, wrong: int) -> Comparison:
    return Comparison(right + wrong, wilson_interval(right, right + wrong, 0.95))


def failures(sets: dict[str, Comparison], slices: dict[str, Comparison] | None = None, best: BestSoFar | None = None) -> list[str]:
    return judge(sets, slices or {}, GATE, best).failures


def test_mcnemar_p_values() -> None:
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


def test_the_floor_applies_to_every_set() -> None:
    assert failures({ALL: alone(95, 5)}) == []
    assert failures({ALL: alone(90, 10)}) == []
    assert failures({ALL: alone(95, 5), NEWEST: alone(80, 20), GOLDEN: alone(870, 130)}) == [
        "the full-sequence accuracy on the newest span is 80.00% (71.12% to 86.66%), under the floor of 90.00%",
        "the full-sequence accuracy on the golden set is 87.00% (84.77% to 88.94%), under the floor of 90.00%",
    ]
    assert len(failures({ALL: alone(0, 0)})) == 1, "of no pictures nothing is known"


def test_a_chance_result_under_the_floor_passes() -> None:
    assert failures({ALL: alone(87, 13)}) == [], "up to 92 %"
    (failure,) = failures({ALL: alone(870, 130)})
    assert failure == "the full-sequence accuracy is 87.00% (84.77% to 88.94%), under the floor of 90.00%"


def test_a_model_may_be_below_production_by_the_margin() -> None:
    assert failures({ALL: comparison(960, 0, 4, 36)}) == [], "by chance"
    (failure,) = failures({GOLDEN: comparison(940, 0, 21, 39)})
    assert failure == (
        "the full-sequence accuracy on the golden set is 94.00%, 2.10% below that of the production model, a significant difference "
        "(21 pictures lost, 0 gained: p = 9.5e-07); at most 2.00% is allowed"
    )


def test_a_chance_loss_above_the_margin_is_no_regression() -> None:
    assert failures({ALL: comparison(94, 1, 4, 1)}) == [], "3 % of 100 pictures"
    assert len(failures({ALL: comparison(940, 10, 40, 10)})) == 1, "3 % of 1,000"


def test_a_significant_loss_within_the_margin_needs_a_gain_on_another_set() -> None:
    worse = comparison(980, 1, 11, 8)
    (failure,) = failures({ALL: comparison(960, 3, 3, 36), GOLDEN: worse})
    assert "is significantly below" in failure
    assert "(11 pictures lost, 1 gained: p = 0.0063); no other set is significantly better" in failure
    assert failures({NEWEST: comparison(600, 350, 0, 50), GOLDEN: worse}) == [], "what it has to learn costs a little elsewhere"


def test_a_small_set_gives_a_warning_and_no_verdict() -> None:
    bad, good = comparison(10, 0, 39), comparison(960, 3, 3, 36)
    for name in (NEWEST, GOLDEN):
        verdict = judge({ALL: good, name: bad}, {}, GATE)
        assert verdict.failures == []
        assert verdict.warnings == [
            f"the {name} has only 49 test pictures, fewer than evaluator.min_pictures (50): it is not used to judge the model"
        ]
        assert len(judge({ALL: good, name: comparison(10, 0, 40)}, {}, GATE).failures) == 2
    gained = judge({ALL: comparison(980, 1, 11, 8), NEWEST: comparison(10, 39, 0)}, {}, GATE)
    assert len(gained.failures) == 1, "nor does it speak for the model"


def test_the_set_of_all_pictures_always_gives_a_verdict() -> None:
    verdict = judge({ALL: alone(5, 15)}, {}, GATE)
    assert len(verdict.failures) == 1, "else a model that nobody has judged is pushed"
    (warning,) = verdict.warnings
    assert warning.startswith("there are only 20 test pictures, fewer than evaluator.min_pictures (50): their figures are uncertain")
    assert judge({ALL: alone(18, 2)}, {}, GATE).failures == []


def test_a_regression_of_one_slice_is_a_failure() -> None:
    sets = {ALL: comparison(960, 20, 10, 10)}
    fine = comparison(90, 0, 0, 10)
    assert failures(sets, {"a": comparison(90, 0, 4, 6), "b": fine}) == [], "within the margin"
    assert failures(sets, {"a": comparison(10, 0, 2), "b": fine}) == [], "more than the margin, of so few pictures by chance"
    (failure,) = failures(sets, {"slice 7 of characters": comparison(80, 0, 20), "b": fine})
    assert failure == (
        "the full-sequence accuracy on the slice 7 of characters has fallen by 20.00%, to 80.00% of 100 pictures; "
        "at most 5.00% is allowed for a slice"
    )


def test_more_slices_need_a_smaller_p_value() -> None:
    fallen = comparison(90, 1, 9)  # p = 0.021
    assert len(failures({}, {"a": fallen})) == 1
    assert failures({}, {str(i): fallen if i == 0 else comparison(90, 0, 0, 10) for i in range(10)}) == []


def test_a_model_must_not_be_worse_than_the_best_so_far() -> None:
    fine = {ALL: comparison(960, 3, 3, 36)}
    worse = comparison(940, 6, 36, 18)  # p = 3e-6
    (failure,) = failures(fine, best=BestSoFar(worse, version=17, models=5))
    assert failure == (
        "the full-sequence accuracy on the golden set is 94.60%, 3.00% below that of version 17, the best so far, a significant difference "
        "(36 pictures lost, 6 gained: p = 2.8e-06); at most 2.00% is allowed"
    )
    assert failures(fine, best=BestSoFar(comparison(960, 0, 15, 25), 17, 1)) == [], "within the margin"
    assert judge(fine, {}, GATE, BestSoFar(comparison(3, 0, 46), 17, 1)).failures == [], "so few do not judge"


def test_the_best_of_many_models_needs_a_smaller_p_value() -> None:
    worse = comparison(940, 20, 45, 5)  # p = 0.0025
    fine = {ALL: comparison(960, 3, 3, 36)}
    assert len(failures(fine, best=BestSoFar(worse, 17, 10))) == 1
    assert failures(fine, best=BestSoFar(worse, 17, 30)) == []


# The error rates of the rules, computed exactly and not by simulation.


def misses_the_floor(count: int, share: float) -> float:
    """Returns the probability of a failure if each of `count` pictures is read correctly with the probability `share`."""

    def is_met(right: int) -> bool:
        return not judge({ALL: alone(right, count - right)}, {}, DEFAULTS).failures

    enough = bisect.bisect_left(range(count + 1), True, key=is_met)
    return float(binom.cdf(enough - 1, count, share))


@pytest.mark.slow
def test_a_good_model_seldom_misses_the_floor_and_a_bad_model_usually_does() -> None:
    assert DEFAULTS.min_sequence_accuracy == 0.98
    assert binom.cdf(math.ceil(0.98 * 83) - 1, 83, 0.984) == pytest.approx(0.38, abs=0.01), "as it was with raw shares"
    assert misses_the_floor(83, 0.984) < 0.02
    assert max(misses_the_floor(count, 0.984) for count in range(DEFAULTS.min_pictures, 400)) < 0.05
    assert misses_the_floor(83, 0.90) > 0.9
    assert misses_the_floor(2000, 0.96) > 0.99


def regresses(count: int, gained: float, lost: float) -> float:
    """Returns the probability of a failure without a floor, if each of `count` pictures is gained or lost with these probabilities."""
    probabilities = binom.pmf(np.arange(count + 1), count, gained + lost)
    total, no_floor = 0.0, DEFAULTS.model_copy(update={"min_sequence_accuracy": 0.0})
    for discordant in np.flatnonzero(probabilities > 1e-7).tolist():

        def fails(fewer: int, discordant: int = discordant) -> bool:
            return bool(judge({ALL: comparison(count - discordant, discordant - fewer, fewer)}, {}, no_floor).failures)

        too_many = bisect.bisect_left(range(discordant + 1), True, key=fails)
        total += probabilities[discordant] * binom.sf(too_many - 1, discordant, lost / (gained + lost))
    return float(total)


@pytest.mark.parametrize(("count", "share"), [(50, 0.02), (83, 0.016), (400, 0.01), (2000, 0.002)])
def test_equal_models_seldom_look_like_a_regression(count: int, share: float) -> None:
    assert regresses(count, share, share) <= 0.025 + 1e-5, "McNemar's exact test keeps its level"


def test_a_real_regression_is_caught() -> None:
    assert DEFAULTS.max_regression == 0.005
    assert regresses(83, 0.005, 0.155) > 0.9, "of few pictures a large one"
    assert regresses(2000, 0.005, 0.020) > 0.99, "of many pictures a small one"
