import dataclasses
import itertools
import math
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from components.evaluation.gate import SetResult
from components.evaluation.metrics import Rate, wilson_interval
from pipeline.reporting.filters import p_value, ranges
from pipeline.reporting.trend import write_trend
from pipeline.runs.retraining import Decision, Production, Retraining
from tests.support.html_page import Page, read_page

NOTHING = Rate(math.nan, math.nan, math.nan)
BEGAN = datetime(2025, 5, 4, 3, 10, tzinfo=timezone.utc)
DRIFT = {"brightness": (0.05, 0.1), "contrast": (0.04, 0.1)}


def rate(share: float) -> Rate:
    return wilson_interval(round(1000 * share), 1000, 0.95)


def pushed(i: int, candidate: float = 0.99, production: float | None = 0.98) -> Retraining:
    """Returns retraining number i, from 0, which trained on the newest three spans and was pushed."""
    comparison = SetResult(rate(candidate), None if production is None else rate(production), None if production is None else 0.03, 100)
    return Retraining(
        run_id=f"run {i}",
        started=BEGAN + timedelta(days=i),
        seconds=400.0,
        trigger=f"new in the window: span {i + 1}",
        spans=tuple(range(max(1, i - 1), i + 2)),
        pictures=5400,
        drift=DRIFT,
        sets={"golden set": comparison, "newest span": comparison},
        decision="pushed",
        why=(),
        version=str(i + 1),
        fingerprint=f"model {i}",
        production_fingerprint=f"model {i - 1}",
    )


def otherwise(i: int, decision: Decision, why: str, candidate: float = 0.97) -> Retraining:
    version = str(i + 1) if decision == "withdrawn" else None
    return dataclasses.replace(pushed(i, candidate), decision=decision, why=(why,), version=version)


def stopped(i: int) -> Retraining:
    """Returns a run that failed before it measured anything."""
    return dataclasses.replace(otherwise(i, "stopped", "SchemaGate failed"), pictures=None, drift={}, sets={}, trigger="")


def serving(retraining: Retraining, copy: str = "") -> Production:
    """Returns the model of a retraining as it is in production: the pushed version, or a copy of it."""
    return Production(copy or str(retraining.version), str(retraining.version), retraining.fingerprint)


def render(retrainings: list[Retraining], folder: Path, title: str = "digits", production: Production | None = None) -> Page:
    """Returns the page. By default the last pushed model is in production."""
    path = folder / "reports" / "trend.html"
    last = [retraining for retraining in retrainings if retraining.decision == "pushed"][-1:]
    write_trend(title, retrainings, path, production or next(map(serving, last), None))
    assert [file.name for file in path.parent.iterdir()] == ["trend.html"]
    return read_page(path)


def labels(page: Page) -> list[str]:
    return [label for found in page.attributes if found.get("role") == "img" and (label := found["aria-label"])]


def test_the_page_without_a_retraining(tmp_path: Path) -> None:
    page = render([], tmp_path)
    assert "There has been no retraining yet." in page.text
    assert not {"svg", "table"} & set(page.tags)


def test_the_page_of_the_first_retraining(tmp_path: Path) -> None:
    first = dataclasses.replace(pushed(0, production=None), drift={})
    page = render([first], tmp_path)
    assert "In production: version 1" in page.text
    assert "1 retraining, 2025-05-04" in page.text
    assert "99.00 % accuracy in production on the golden set" in page.text
    assert "99.00 % no model in production" in page.text
    assert "No drift has been measured." in page.text
    assert [label.split(":")[0] for label in labels(page)] == [
        "Decision, over the retrainings",
        "Golden set",
        "Newest span",
        "Training pictures, over the retrainings",
    ]


def test_every_decision_has_its_own_mark(tmp_path: Path) -> None:
    history = [
        pushed(0, production=None),
        otherwise(1, "not blessed", "0.9700 is below 0.9900"),
        otherwise(2, "withdrawn", "the served model did not answer"),
        stopped(3),
        pushed(4),
    ]
    page = render(history, tmp_path)
    # One in the legend, one in the row of decisions, and one in the figure of each set; the stopped run is in no figure.
    count = {decision: len(page.of_class(f"mark {decision}")) for decision in ("pushed", "not-blessed", "withdrawn", "stopped")}
    assert count == {"pushed": 1 + 2 * 3, "not-blessed": 1 + 3, "withdrawn": 1 + 3, "stopped": 1 + 1}
    assert "2 pushed, 1 withdrawn, 1 not blessed, 1 stopped" in page.text
    assert "not blessed 0.9700 is below 0.9900" in page.text
    assert "withdrawn version 3 the served model did not answer" in page.text
    assert "stopped SchemaGate failed – – – –" in page.text
    assert "97.00 % in production 98.00 % p 0.03" in page.text
    assert "2025-05-05, span 2, not blessed: 97.00 % (95.75 % to 97.89 %), in production 98.00 % (96.93 % to 98.70 %)" in page.text


def test_the_newest_comes_first_in_the_table_and_last_in_the_figures(tmp_path: Path) -> None:
    page = render([pushed(i) for i in range(3)], tmp_path)
    table = page.text[page.text.index("drift above threshold trained on") :]
    assert re.findall(r"2025-05-\d\d 03:10", table) == ["2025-05-06 03:10", "2025-05-05 03:10", "2025-05-04 03:10"]
    assert "2025-05-06 03:10 took 6 min 40 s pushed version 3 new in the window: span 3 99.00 % in production 98.00 % p 0.03" in table
    assert "none span 1–3 5,400 pictures" in table
    left = [float(found["cx"] or "nan") for found in page.of_class("mark pushed")][1:4]
    assert left == sorted(left)


def test_the_serving_folder_decides_which_model_is_in_production(tmp_path: Path) -> None:
    """Three models were pushed, and a rollback restored the first: the third was compared with the second, not with the first."""
    first = pushed(0, 0.98, None)
    withdrawn = [otherwise(1, "withdrawn", "", 0.995), otherwise(2, "withdrawn", "", 0.97)]
    page = render([first, *withdrawn], tmp_path, production=serving(first, copy="4"))
    assert "In production: version 4, a copy of 1" in page.text
    assert "From the retraining of 2025-05-04, restored by a rollback." in page.text
    assert "98.00 % accuracy in production on the golden set interval 96.93 % to 98.70 %, measured 2025-05-05" in page.text


def test_the_model_in_production_may_come_from_no_retraining(tmp_path: Path) -> None:
    page = render([pushed(0)], tmp_path, production=Production("17", "17", None))
    assert "In production: version 17" in page.text
    assert "Not pushed by any of these retrainings." in page.text
    assert "accuracy in production on the golden set" not in page.text
    page = render([otherwise(0, "withdrawn", "it did not answer")], tmp_path)
    assert "In production: no model" in page.text


def test_figures_from_before_the_last_push_are_not_shown(tmp_path: Path) -> None:
    unmeasured = SetResult(NOTHING, None, None, 0)
    last = dataclasses.replace(pushed(1), sets={"golden set": pushed(1).sets["golden set"], "newest span": unmeasured})
    page = render([pushed(0, production=None), last], tmp_path)
    assert "accuracy in production on the golden set" in page.text
    assert "accuracy in production on the newest span" not in page.text


def test_drift_above_its_threshold_is_marked_and_named(tmp_path: Path) -> None:
    drift = {"brightness": (0.25, 0.1), "contrast": (0.1, 0.1), "sharpness": (math.nan, 0.1), "source": (0.2, 0.0)}
    page = render([pushed(0), dataclasses.replace(pushed(1), drift=drift), stopped(2)], tmp_path)
    assert len(page.of_class("above")) == 2
    assert "2025-05-05, span 2: brightness 2.5 times its threshold" in page.text
    assert "brightness, source span 1, 2" in page.text
    assert len(page.of_class("threshold")) == 1 + 4  # one in the legend, and one for each measure


@pytest.mark.parametrize(
    ("lowest", "ticks"), [(0.99, ["100", "96", "98", "99", "99.5", "99.9"]), (0.1, ["100", "0", "50", "80", "90", "98"])]
)
def test_the_axis_fits_the_accuracies(lowest: float, ticks: list[str], tmp_path: Path) -> None:
    page = render([pushed(0, 0.998, None), otherwise(1, "not blessed", "too low", lowest)], tmp_path)
    figure = page.text[page.text.index("Golden set: full") : page.text.index("Newest span: full")]
    assert re.findall(r"([\d.]+) %", figure.split(", pushed")[0]) == ticks
    # Nothing is drawn outside the plot, which begins at 28 and is 190 high.
    drawn = [found["d"] or "" for name in ("line", "interval", "replaced") for found in page.of_class(name)]
    in_legend = ("M0 5H22", "M5 5H17")
    heights = [float(y) for path in drawn if path not in in_legend for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", path)]
    assert min(heights) >= 28
    assert max(heights) <= 28 + 190


def test_an_unknown_rate_is_left_out_of_the_figures(tmp_path: Path) -> None:
    unknown = SetResult(NOTHING, NOTHING, math.nan, 0)
    page = render([dataclasses.replace(pushed(0), sets={"golden set": unknown})], tmp_path)
    assert "No retraining has been evaluated." in page.text
    assert len(page.of_class("mark pushed")) == 2  # in the legend and in the row of decisions
    page = render([pushed(0), dataclasses.replace(pushed(1), sets={"golden set": unknown})], tmp_path)
    assert "– in production – p –" in page.text
    assert len(page.of_class("mark pushed")) == 1 + 2 + 2


def test_all_test_pictures_are_shown_if_there_is_no_other_set(tmp_path: Path) -> None:
    comparison = SetResult(rate(0.99), rate(0.98), 0.2, 100)
    page = render([dataclasses.replace(pushed(0), sets={"all": comparison})], tmp_path)
    assert any(label.startswith("All test pictures: full-sequence accuracy") for label in labels(page))
    assert "accuracy in production on all test pictures" in page.text
    assert "Golden set" not in page.text


def test_two_hundred_retrainings_stay_legible_and_small(tmp_path: Path) -> None:
    history = [pushed(i) if i % 3 else otherwise(i, "not blessed", "0.9700 is below 0.9900 by 0.0200") for i in range(200)]
    page = render(history, tmp_path)
    assert page.tags.count("tr") == 201
    dates = [float(found["x"] or "nan") for found in page.of_class("mid") if "soft" not in (found["class"] or "")]
    per_figure = len(dates) // len(labels(page))
    row = sorted(dates[:per_figure])
    assert per_figure >= 10
    assert min(b - a for a, b in itertools.pairwise(row)) >= 70
    # The newest retraining has a date label.
    assert "2025-11-19" in page.text[page.text.index("Decision") : page.text.index("Golden set: ")]
    assert (tmp_path / "reports" / "trend.html").stat().st_size < 400_000


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    retraining = dataclasses.replace(
        pushed(0),
        run_id=evil,
        trigger=evil + "\udcff",
        why=(evil, "x" * 10_000),
        version=evil,
        drift={evil: (2.0, 1.0)},
        report="javascript:alert(1)",
    )
    page = render([retraining], tmp_path, title=evil)  # checks the tags, too
    assert "img" not in page.tags
    assert page.text.count("<script>alert(1)</script>") >= 5
    assert r"\udcff" in page.text
    assert "x" * 1000 not in page.text
    assert set(page.addresses) == {"javascript%3Aalert%281%29"}


def test_a_retraining_links_to_its_report(tmp_path: Path) -> None:
    page = render([pushed(0), dataclasses.replace(pushed(1), report="evaluation-7/a #1?.html")], tmp_path)
    assert set(page.addresses) == {"evaluation-7/a%20%231%3F.html"}


@pytest.mark.parametrize(("probability", "text"), [(0.0004, "< 0.001"), (0.031, "0.031"), (0.5, "0.50"), (None, "–"), (math.nan, "–")])
def test_a_p_value_has_two_significant_digits(probability: float | None, text: str) -> None:
    assert p_value(probability) == text


@pytest.mark.parametrize(("numbers", "text"), [((), ""), ((3,), "3"), ((1, 2), "1, 2"), ((7, 1, 2, 3, 9, 10), "1–3, 7, 9, 10")])
def test_consecutive_spans_are_written_as_a_range(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text
