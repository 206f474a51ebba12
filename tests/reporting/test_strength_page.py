import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.data.captcha_spec import CaptchaSpec
from components.data.drawing.legibility import Legibility
from components.evaluation.label_cost import LabelCost
from components.evaluation.learning_curve import Estimate, Fitted
from components.evaluation.metrics import ReadingCounts, Results, wilson_interval
from pipeline.reporting.strength_page import PAGE, Share, costliest, extremes, interval, labels_in_words, write_strength
from pipeline.runs.drawn_styles import Changes, DrawnStyle
from pipeline.runs.strength import CpuTime, Goal, Stage, Strength, Untrained
from tests.support.html_page import read_page

SPEC = CaptchaSpec(charset="AB<&", length=3, width=60, height=20)


def results(errors: list[float], count: int = 1_000, seed: int = 1) -> Results:
    """Returns results with a share of wrong characters at each position."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, (count, len(errors)))
    wrong = rng.random(truth.shape) < np.asarray(errors)
    counts = ReadingCounts(len(errors), 4)
    counts.add_readings(truth, np.where(wrong, (truth + 1) % 4, truth), np.full(count, 0.5))
    return counts.results(0.95)


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (60, 20), "white").save(stream, "PNG")
    return stream.getvalue()


def drawn(name: str, error: float, overlap: float | None = 0.1) -> DrawnStyle:
    legible = Legibility(3.0, 4.2, overlap, None if overlap is None else 0.3)
    return DrawnStyle(name, results([error] * 3), legible, Estimate(2.4, 1.5, math.inf), (picture(),))


def example() -> Strength:
    groups = [[Fitted(25, 500, 480)], [Fitted(100, 500, 250)], [Fitted(400, 500, 25)]]
    stages = (Stage(25, 1, results([0.6] * 3)), Stage(100, 4, results([0.05, 0.1, 0.4])), Stage(400, 1, results([0.02] * 3)))
    cost = LabelCost(groups)
    goals = [Goal(accuracy, cost.labels_for(accuracy), Estimate(3.2, 2.0, math.inf)) for accuracy in (0.1, 0.5, 0.9)]
    changes = Changes(100, True, (drawn("", 0.2), drawn("more <dots>", 0.5), drawn("more fonts", 0.2)))
    untrained = (Untrained("ddddocr", None, "not installed on this machine"), Untrained("Tesseract", wilson_interval(12, 200, 0.95)))
    time = CpuTime(5.0, 0.05)
    return Strength("run-1", 800, SPEC, (picture(),), tuple(goals), cost, stages, stages[1], time, 2, untrained, changes, 0.95)


def test_the_page_says_what_was_measured_and_needs_neither_network_nor_script(tmp_path: Path) -> None:
    strength = example()
    path = write_strength("shop <b>", strength, tmp_path / "strength")
    assert path == tmp_path / "strength" / PAGE
    page = read_page(path)
    assert "script" not in page.tags
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    (policy,) = [it["content"] for it in page.attributes if it.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not any("style" in it for it in page.attributes), "the policy forbids style attributes"
    text = " ".join("".join(page.words).split())
    assert "shop <b>: what this captcha withstands" in text
    assert f"learns from {labels_in_words(strength.goals[1], strength)} labelled pictures reads half of all pictures" in text
    assert "not installed on this machine" in text
    assert "There are only 64 different texts" in text
    assert "6.0 %" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "The change that costs the program most: more <dots>." in text
    assert "Clearly easier than most: position 1" in text
    assert "Clearly harder than most: position 3" in text


def test_the_page_says_what_is_missing(tmp_path: Path) -> None:
    strength = dataclasses.replace(example(), changes=None)
    assert "no change could be tried" in write_strength("shop", strength, tmp_path).read_text(encoding="utf-8")
    free = Changes(100, False, (drawn("", 0.2, None), drawn("more fonts", 0.2, None)))
    text = write_strength("shop", dataclasses.replace(example(), changes=free), tmp_path).read_text(encoding="utf-8")
    assert "No change makes the pictures clearly harder for the program" in text
    assert "if they look different" in text


def test_numbers_beyond_what_was_measured_are_told_as_bounds() -> None:
    strength = example()
    few, many = (Goal(0.5, Estimate(*values), Estimate(1, 1, 1)) for values in ((3, 1, 9), (math.inf, 900, math.inf)))
    assert labels_in_words(few, strength) == "fewer than 25"
    assert labels_in_words(many, strength) == "more than 20,000"
    assert interval(many.labels, strength.cost.farthest) == "900 to more than 20,000"
    assert interval(Estimate(math.inf, math.inf, math.inf), 20_000) == "above 20,000"


def test_equally_hard_characters_seldom_look_different() -> None:
    rng = np.random.default_rng(1)
    named = 0
    for _ in range(200):
        rates = [wilson_interval(int(right), 300, 0.95) for right in rng.binomial(300, 0.6, 36)]
        shares = sorted((Share(str(i), 300, rate, rate) for i, rate in enumerate(rates)), key=lambda share: -share.early.value)
        named += any(extremes(shares, 0.95))
    assert named <= 20  # 10 are expected if all intervals together are right in 95 % of the cases; with intervals of 95 % each, 160


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=30))
def test_what_is_easier_than_most_is_never_harder_than_most(rows: list[tuple[int, int]]) -> None:
    shares = [Share(str(i), n, rate := wilson_interval(min(k, n), n, 0.95), rate) for i, (k, n) in enumerate(rows)]
    shares.sort(key=lambda share: -share.early.value)
    easy, hard = extremes(shares, 0.95)
    assert not set(easy) & set(hard)
    assert 2 * len(easy) <= len(rows)
    assert 2 * len(hard) <= len(rows)
    assert easy == [share.name for share in shares[: len(easy)]] or sorted(easy)


@pytest.mark.parametrize(("error", "found"), [(0.21, None), (0.5, "harder")])
def test_a_change_costs_more_only_beyond_chance(error: float, found: str | None) -> None:
    hardest = costliest(Changes(100, True, (drawn("", 0.2), drawn("easier", 0.1), drawn("harder", error))))
    assert (hardest.name if hardest else None) == found
    assert costliest(Changes(100, True, (drawn("", 0.2),))) is None
