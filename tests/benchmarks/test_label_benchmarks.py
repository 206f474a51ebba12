"""The benchmarks of few labels: the mistakes that they plant, and what their tables conclude."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import audit, label_order, plan, strength
from benchmarks.real_sets import Labelled
from components.data.captcha_spec import CaptchaSpec

SPEC = CaptchaSpec(charset="0123456789", length=4)
PICTURES = [Labelled(Path(str(number)), str(number), f"{number * 37 % 10_000:04d}", number) for number in range(1_000)]


def cells(table: tuple[list[str], list[list[str]]]) -> list[dict[str, str]]:
    columns, lines = table
    return [dict(zip(columns, line, strict=True)) for line in lines]


def test_three_percent_of_the_labels_get_one_wrong_character() -> None:
    planted = audit.plant(PICTURES, SPEC, seed=1)
    assert len(planted) == 30
    assert planted == audit.plant(PICTURES, SPEC, seed=1) != audit.plant(PICTURES, SPEC, seed=2)
    for at, label in planted.items():
        assert sum(a != b for a, b in zip(label, PICTURES[at].label, strict=True)) == 1
        assert set(label) <= set(SPEC.characters)


def test_half_of_the_planted_mistakes_look_alike() -> None:
    ones = [Labelled(Path(str(number)), str(number), "1111", number) for number in range(1_000)]
    changed = [next(character for character in label if character != "1") for label in audit.plant(ones, SPEC, seed=1).values()]
    assert changed.count("7") >= 15
    assert len(set(changed)) > 2


def order_row(order: str, labels: int, read: int, seed: int = 1) -> dict[str, Any]:
    return {"set": "gt4", "order": order, "seed": seed, "labels": labels, "fitted": labels, "read": read, "test": 1_000}


def test_the_page_is_compared_with_the_random_labels_that_read_as_much() -> None:
    rows = [
        order_row("random", 60, 800),
        order_row("random", 110, 900),
        order_row("of the page", 60, 900),
        order_row("of the page", 110, 950),
    ]
    first, second = cells(label_order.table(rows))
    assert (first["random labels for the same accuracy"], first["ratio"]) == ("110", "0.55")
    assert (second["random labels for the same accuracy"], second["ratio"]) == ("more than 110", "")


def test_the_page_can_be_worse_than_every_random_fit() -> None:
    (only,) = cells(label_order.table([order_row("random", 60, 800), order_row("of the page", 60, 700)]))
    assert only["random labels for the same accuracy"] == "fewer than 60"


@pytest.mark.parametrize(("read", "inside"), [(949, "no"), (950, "yes"), (990, "yes"), (991, "no")])
def test_a_plan_is_right_if_the_fit_is_in_its_interval(read: int, inside: str) -> None:
    row = {"set": "v2", "seed": 1, "labels": 240, "expected": 0.97, "lower": 0.95, "upper": 0.99, "read": read, "test": 1_000}
    (only,) = cells(plan.table([row]))
    assert only["in the interval"] == inside


@pytest.mark.parametrize(("fewer", "more", "right"), [(300, 700, "yes"), (510, 700, "no"), (300, 490, "no")])
def test_the_strength_is_right_if_half_is_read_between_fewer_and_more_labels(fewer: int, more: int, right: str) -> None:
    row = {
        "set": "v2",
        "needed": 90.0,
        "lower": 60.0,
        "upper": float("inf"),
        "read": {"60": [fewer], "90": [500], "135": [more]},
        "test": 1_000,
    }
    (only,) = cells(strength.table([row]))
    assert only["within a factor of 1.5"] == right
    assert only["labels for 50 % (80 % interval)"] == "90 (60 to inf)"
