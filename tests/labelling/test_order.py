"""The order in which pictures are labelled."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import binomtest, kstest

from components.data.splits import bytes_key, split_of
from pipeline.labelling.order import RANDOM_SHARE, Order, random_is_due, random_order

SPLITS = {"train": 10, "eval": 1, "test": 1}
embeddings = st.integers(1, 40).flatmap(
    lambda count: arrays.arrays(np.float32, (count, 3), elements=st.floats(-1, 1, width=16, allow_subnormal=False))
)


def all_of(order: Order, count: int) -> list[int]:
    """Chooses until no picture is free."""
    free, found = np.ones(count, bool), list[int]()
    while (index := order.next(free)) is not None:
        assert free[index]
        free[index] = False
        order.choose(index)
        found.append(index)
    return found


def doubts(count: int) -> np.ndarray:
    return np.random.default_rng(count).random(count)


@given(embeddings, st.booleans())
def test_every_free_picture_comes_once(points: np.ndarray, with_model: bool) -> None:
    order = Order(points)
    if with_model:
        order.restart((), doubts(len(points)))
    assert sorted(all_of(order, len(points))) == list(range(len(points)))


@given(embeddings)
def test_without_a_model_the_next_picture_is_the_farthest_from_all_earlier_ones(points: np.ndarray) -> None:
    order = Order(points)
    found = all_of(order, len(points))
    for rank in range(1, len(found)):
        distances = np.linalg.norm(points[:, None].astype(float) - points[found[:rank]][None], axis=-1).min(axis=1)
        assert distances[found[rank]] >= distances[found[rank:]].max() - 1e-2


@given(embeddings)
def test_the_chosen_cover_the_pictures_within_twice_the_best_radius(points: np.ndarray) -> None:
    # The bound of the greedy solution (Gonzalez 1985). The best radius is at least half the smallest distance among the first k + 1.
    order = Order(points)
    found = all_of(order, len(points))
    for k in range(1, min(len(points), 6)):
        centres = points[found[:k]].astype(float)
        radius = np.linalg.norm(points[:, None].astype(float) - centres[None], axis=-1).min(axis=1).max()
        apart = [np.linalg.norm(points[a].astype(float) - points[b]) for i, a in enumerate(found[: k + 1]) for b in found[:i]]
        assert radius <= min(apart) + 1e-2


def test_with_a_model_doubtful_pictures_come_first_but_not_near_duplicates_in_a_row() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(8, dtype=np.float32)
    points = np.repeat(centres, 50, axis=0) + random.normal(0, 0.001, (400, 8)).astype(np.float32)
    doubt = np.full(400, 0.01)
    doubt[:200] = 0.9  # the first four groups
    order = Order(points)
    order.restart((), doubt)
    first = all_of(order, 400)[:4]
    assert {index // 50 for index in first} == {0, 1, 2, 3}


def test_only_the_most_doubtful_of_many_pictures_are_candidates() -> None:
    random = np.random.default_rng(1)
    points = random.normal(size=(5000, 4)).astype(np.float32)
    doubt = random.random(5000)
    order = Order(points)
    order.restart((), doubt)
    assert doubt[all_of(order, 5000)[:50]].min() >= np.sort(doubt)[-450]


def test_pictures_that_were_labelled_before_count() -> None:
    points = np.array([[0.0], [0.1], [1.0], [0.9]], np.float32)
    order = Order(points)
    order.restart([0, 2])
    order.choose(1)
    assert order.next(np.array([False, True, False, True])) == 3
    assert order.next(np.zeros(4, bool)) is None


@given(st.integers(0, 60), st.floats(0, 1))
def test_one_in_five_is_random_whatever_came_before(total: int, share: float) -> None:
    random = round(share * total)
    later = [(random, total)]
    for _ in range(300):
        random += random_is_due(random, total)
        total += 1
        later.append((random, total))
    behind = [abs(random - RANDOM_SHARE * total) for random, total in later[-20:]]
    assert min(behind) < 1 or random > RANDOM_SHARE * total  # or there were too many random ones at the beginning
    first = [random_is_due(0, 0), *(random_is_due(1, total) for total in range(1, 5)), random_is_due(1, 5)]
    assert first == [True, False, False, False, False, True]


def keys(count: int) -> list[bytes]:
    return [bytes_key(b"%d" % number) for number in range(count)]


@given(st.integers(1, 400), st.randoms())
def test_the_random_order_depends_on_the_pictures_only(count: int, shuffle: Random) -> None:
    known = keys(count)
    groups = [[i for i in range(count) if split_of(known[i], SPLITS) == split] for split in ("eval", "test")]
    order = random_order(known, groups)
    assert sorted(order) == sorted(groups[0] + groups[1])
    mixed = list(range(count))
    shuffle.shuffle(mixed)  # files in another order
    other = [known[i] for i in mixed]
    moved = [[mixed.index(i) for i in group] for group in groups]
    assert [other[i] for i in random_order(other, moved)] == [known[i] for i in order]


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_groups_take_turns(one: int, two: int) -> None:
    known = keys(one + two)
    order = random_order(known, [range(one), range(one, one + two)])
    for length in range(len(order) + 1):
        of_one = sum(index < one for index in order[:length])
        assert abs(of_one * (one + two) - one * length) <= one + two


@pytest.mark.parametrize("split", ["eval", "test"])
def test_the_random_pictures_are_a_simple_random_sample(split: str) -> None:
    # Whether a picture comes early says nothing about it: here, about its number.
    known = keys(20_000)
    group = [i for i in range(20_000) if split_of(known[i], SPLITS) == split]
    early = random_order(known, [group])[: len(group) // 4]
    assert binomtest(len(group), 20_000, 1 / 12).pvalue > 0.001
    assert kstest(np.array(early) / 20_000, "uniform").pvalue > 0.001
