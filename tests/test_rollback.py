"""What a plain run does after a model has been asked for again, and after a rollback, on tiny data."""

import json
from pathlib import Path

import pytest
from command import call

from components.serving_dir import Pushed, versions
from pipeline import history
from pipeline.cli import NOT_PUSHED
from pipeline.config import Config
from pipeline.config_file import load_config

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("rollback")
    few = ["synth.count=300", "trainer.epochs=2", "evaluator.min_sequence_accuracy=0", "evaluator.max_regression=1"]
    few.append("evaluator.max_slice_regression=1")
    changes = [f"root={root / 'output'}", f"data.root={root / 'data'}", *few]
    return ["--config", str(TINY), *(word for change in changes for word in ("--set", change))]


@pytest.fixture(scope="module")
def config(options: list[str]) -> Config:
    return load_config(TINY, options[3::2])


@pytest.fixture(scope="module")
def pushed(options: list[str], config: Config) -> tuple[Pushed, Pushed]:
    """The models of a run and of a retraining that was asked for."""
    call("data", "synth", *options)
    call("run", *options)
    assert "Retraining: asked for" in call("retrain", "--force", *options)
    second, first = versions(config.serving_dir)
    return first, second


def states(config: Config) -> set[str]:
    run = history.latest_run(config.metadata_path)
    assert run is not None
    return {step.state for step in run.steps}


def test_a_plain_run_after_one_that_was_asked_for_does_nothing(options: list[str], config: Config, pushed: tuple[Pushed, Pushed]) -> None:
    before = versions(config.serving_dir)
    printed = " ".join(call("run", *options).split())
    assert f"Blessed, in production as version {before[0].version}" in printed
    assert "every step was cached" in printed
    assert states(config) == {"cached"}
    assert versions(config.serving_dir) == before
    assert before[0].fingerprint == pushed[1].fingerprint != pushed[0].fingerprint
    assert "Nothing to do" in call("retrain", *options)


def test_after_a_rollback_a_run_and_what_is_shown_tell_the_truth(options: list[str], config: Config, pushed: tuple[Pushed, Pushed]) -> None:
    first, second = pushed
    call("rollback", str(first.version), *options)
    back = versions(config.serving_dir)[0]
    printed = " ".join(call("run", *options, exit_code=NOT_PUSHED).split())
    assert f"Withdrawn by a rollback, and not pushed again: new data make a new model. In production is version {back.version}." in printed
    assert "Blessed" not in printed
    assert versions(config.serving_dir)[0] == back
    assert f"In production: version {back.version}, a copy of {first.version}" in call("runs", *options)
    trend = Path(config.report_dir, "trend.html").read_text(encoding="utf-8")
    assert f"In production: version <bdi>{back.version}</bdi>, a copy of <bdi>{first.version}</bdi>" in trend

    call("rollback", str(second.version), *options)
    again = versions(config.serving_dir)[0]
    assert f"Blessed, in production as version {again.version}" in " ".join(call("run", *options).split())


def test_a_version_that_is_gone_is_not_said_to_be_pushed(options: list[str], config: Config, pushed: tuple[Pushed, Pushed]) -> None:
    serving = Path(config.serving_dir)
    newest = versions(serving)
    ours = [version for version in newest if version.fingerprint == pushed[1].fingerprint]
    for version in ours:
        version.path.rename(serving.with_name(version.path.name))
    try:
        printed = " ".join(call("run", *options, exit_code=NOT_PUSHED).split())
        assert f"Nothing was pushed: an earlier run pushed this model as version {pushed[1].version}" in printed
        assert f"In production is version {versions(serving)[0].version}." in printed
    finally:
        for version in ours:
            serving.with_name(version.path.name).rename(version.path)
    assert versions(serving) == newest


def test_what_a_version_was_made_from_goes_with_it(config: Config, pushed: tuple[Pushed, Pushed]) -> None:
    runs = [run for run in history.runs(config.metadata_path) if run.pushed_version]
    first, second = ({run.recipe for run in runs if run.attempt == attempt} for attempt in (0, 1))
    assert (first, second) == ({pushed[0].recipe}, {pushed[1].recipe})
    assert {run.baseline for run in runs if run.attempt == 1} == {pushed[0].fingerprint}
    about = json.loads((pushed[1].path / "assets.extra" / "captcha.json").read_text())
    assert (about["warm_start"], about["base_problem"]) == (False, "")
