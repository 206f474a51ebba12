"""The outcome of each run, read from the output of its steps."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.evaluation.metrics import Rate
from components.serving.serving_dir import Pushed, push, roll_back
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.reporting import tables
from pipeline.reporting.trend import write_trend_page
from pipeline.runs import history
from pipeline.runs.history import RunRecord, StepRecord
from pipeline.runs.outcomes import accuracy_in_production, production, retrainings
from tests.support.model_folder import make_model
from tests.support.paths import TINY

RATE = {"value": 0.9, "lower": 0.8, "upper": 0.95}
WORSE = {"value": 0.6, "lower": 0.5, "upper": 0.7}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(TINY, [f"root={tmp_path / 'output'}"])


def step(node: str, folder: Path, state: history.State = "done", **left: dict[str, Any]) -> StepRecord:
    """Returns a step whose outputs are JSON files, given as `output__file={…}`."""
    outputs = {}
    for name, content in left.items():
        output, file = name.split("__")
        place = folder / node / output / "7"
        place.mkdir(parents=True)
        (place / f"{file}.json").write_text(json.dumps(content))
        outputs[output] = (str(place),)
    return StepRecord(node, state, 2.5, 1, outputs)


def run(folder: Path, **changes: Any) -> RunRecord:
    """Returns a run that pushed its model."""
    more = changes.pop("more", {})
    sets = {name: {"candidate": RATE, "production": WORSE, "p_value": 0.001, "count": 100} for name in ("all", "golden set")}
    distances = {"brightness": {"value": 0.4, "threshold": 0.2}, "size": {"value": 0.3, "threshold": None}}
    steps = (
        step("CaptchaExampleGen", folder, quarantine__summary={"good": {"train": 1000, "test": 9}}),
        step("DriftGate", folder, anomalies__drift={"distances": distances}),
        step("CaptchaEvaluator", folder, evaluation__judgement={"failures": changes.pop("failures", []), "sets": sets} | more),
        StepRecord("AtomicPusher", "done", 1.0, 2, {"pushed_model": ("uri",)}),
    )
    values: dict[str, Any] = {
        "run_id": "2026-03-01T03:00:00.123",
        "started": datetime(2026, 3, 1, 3, tzinfo=timezone.utc),
        "steps": steps,
        "pushed_version": "17",
        "blessed": True,
        "recipe": "r",
        "fingerprint": "f",
        "production_fingerprint": "e",
        "spans": (1, 2, 3),
        "trigger": "new in the window: span 3",
    }
    return RunRecord(**values | changes)


def serve(config: Config, folder: Path, *fingerprints: str) -> list[Pushed]:
    """Pushes a model for each fingerprint, which is also its recipe."""
    return [push(make_model(folder / "models" / name, name), config.serving_dir, keep=9) for name in fingerprints]


def remember(monkeypatch: pytest.MonkeyPatch, *runs: RunRecord) -> None:
    monkeypatch.setattr(history, "runs", lambda _: list(runs))


def test_the_outcome_of_a_pushed_model(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch, run(tmp_path / "a"))
    report = Path(config.report_dir) / "evaluation-7" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    (told,) = retrainings(config)
    assert (told.decision, told.version, told.pictures) == ("pushed", "17", 1000)
    assert (told.trigger, told.spans) == ("new in the window: span 3", (1, 2, 3))
    assert told.drift == {"brightness": (0.4, 0.2)}, "what has no threshold is not looked at"
    assert told.sets["golden set"].candidate.value == 0.9
    assert told.sets["newest span"] == told.sets["all"], "where there is no other, all is the newest"
    assert told.seconds == 8.5
    assert told.report == "evaluation-7/report.html"


def test_the_reason_why_a_model_was_not_pushed(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unblessed = run(tmp_path / "a", failures=["it is bad"], blessed=False, pushed_version=None)
    remember(monkeypatch, unblessed)
    (told,) = retrainings(config)
    assert (told.decision, told.why, told.version) == ("not blessed", ("it is bad",), None)
    assert accuracy_in_production(config, unblessed) is None, "nothing is in production"
    serve(config, tmp_path, "e")
    assert accuracy_in_production(config, unblessed) == Rate(**WORSE), "that is still the other one"
    serve(config, tmp_path, "f")
    assert accuracy_in_production(config, run(tmp_path / "b")) == Rate(**RATE)


def test_the_outcome_of_a_stopped_run(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    steps = (StepRecord("CaptchaExampleGen", "failed", 3.0, 1, {}),)
    stopped = run(tmp_path / "a", steps=steps, blessed=None, pushed_version=None, spans=())
    remember(monkeypatch, stopped)
    (told,) = retrainings(config)
    assert (told.decision, told.why, told.pictures, told.sets, told.drift) == ("stopped", ("CaptchaExampleGen failed",), None, {}, {})
    assert accuracy_in_production(config, stopped) is None


def test_the_outcome_of_a_model_withdrawn_by_a_rollback(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = serve(config, tmp_path, "e", "f")
    before = run(tmp_path / "a", recipe="e", fingerprint="e", production_fingerprint=None, pushed_version=str(first.version))
    last = run(tmp_path / "b", recipe="f", fingerprint="f", pushed_version=str(second.version), run_id="2026-03-02T03:00:00.123")
    remember(monkeypatch, before, last)
    assert accuracy_in_production(config, last) == Rate(**RATE)
    assert shown(config) == f"In production: version {second.version}, from the run of 2026-03-02 03:00"
    back = roll_back(config.serving_dir, first.version)
    assert [told.decision for told in retrainings(config)] == ["pushed", "withdrawn"]
    assert accuracy_in_production(config, last) == Rate(**WORSE), "the last run has measured what is in production again"
    copy = f"version {back.version}, a copy of {first.version} made by a rollback"
    assert shown(config) == f"In production: {copy}, from the run of 2026-03-01 03:00"
    page = write_trend_page(config).read_text(encoding="utf-8")
    assert f"version <bdi>{back.version}</bdi>, a copy of <bdi>{first.version}</bdi>" in page
    serve(config, tmp_path, "of someone else")
    assert shown(config).endswith(", not pushed by any of these runs")


def shown(config: Config) -> str:
    """Returns the last line that `runs` prints."""
    with (console := Console(width=200)).capture() as capture:
        tables.print_retrainings(console, retrainings(config), production(config))
    return capture.get().splitlines()[-1]


def test_nothing_in_production(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(monkeypatch, run(tmp_path / "a"))
    assert shown(config) == "In production: no model, the serving folder has no version"


def test_cached_runs_and_searches_are_left_out(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = run(tmp_path / "a", steps=(StepRecord("CaptchaExampleGen", "cached", 0.1, 1, {}),))
    search = run(tmp_path / "b", steps=(StepRecord("Tuner", "done", 9.0, 1, {}),))
    remember(monkeypatch, cached, search)
    assert retrainings(config) == []


def test_the_table_and_the_trend_page(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned = "the newest span has only 3 test pictures"
    remember(
        monkeypatch,
        run(tmp_path / "a", more={"warnings": [warned]}),  # the judgement of an earlier release has no warnings
        run(tmp_path / "b", failures=["[bold]bad[/]"], blessed=False, pushed_version=None),
    )
    with (console := Console(width=250)).capture() as capture:
        tables.print_retrainings(console, retrainings(config), None)
    first, second = [line for line in capture.get().splitlines() if line.startswith("2026-03-01 03:00")]
    assert all(text in first for text in ("new in the window: span 3", "1–3", "brightness", "90.00 (60.00)", f"pushed as 17; {warned}"))
    assert "not blessed; [bold]bad[/]" in second
    page = write_trend_page(config)
    assert page == Path(config.report_dir) / "trend.html"
    assert "[bold]bad[/]" in page.read_text(encoding="utf-8")
    assert f"Warning: {warned}" in page.read_text(encoding="utf-8")
