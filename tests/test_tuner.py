"""The search for hyperparameters: what it may choose, what it leaves, and what a run takes from it."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import call

from components import trainer, tuner
from components.captcha import CaptchaSpec
from components.errors import CaptchaPipelineError
from components.hyperparameters import Hyperparameters
from pipeline import history
from pipeline.cli import STOPPED
from pipeline.config import TrainerConfig
from pipeline.config_file import load_config

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
SPEC = CaptchaSpec(charset="012", length=2, width=40, height=24, channels=1)
KNOBS = {"learning_rate", "batch_size", "label_smoothing", "shift"}


def hyperparameters(**changes: Any) -> Hyperparameters:
    return dataclasses.replace(Hyperparameters(**TrainerConfig().model_dump()), **changes)


def test_the_values_in_force_are_in_the_space_and_its_defaults() -> None:
    now = hyperparameters(learning_rate=0.5, batch_size=48, label_smoothing=0.07, shift=3)
    space = tuner.search_space(now, SPEC, 1, [])
    assert space.values == {"learning_rate": 0.5, "batch_size": 48, "label_smoothing": 0.07, "shift": 3}


def test_what_is_fixed_is_not_searched_and_batches_can_be_shared() -> None:
    space = tuner.search_space(hyperparameters(batch_size=30), SPEC, 3, ["learning_rate", "shift", "epochs"])
    assert set(space.values) == {"batch_size", "label_smoothing"}
    (batch_size,) = (choice for choice in space.space if choice.name == "batch_size")
    assert all(size % 3 == 0 for size in batch_size.values)


def test_a_search_for_nothing_says_so() -> None:
    with pytest.raises(CaptchaPipelineError, match="nothing is left to search for"):
        tuner.search_space(hyperparameters(), SPEC, 1, sorted(KNOBS))


@pytest.mark.slow
def test_a_run_takes_what_the_search_found_and_what_the_user_sets_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--config", str(TINY), "--set", f"root={tmp_path / 'output'}", "--set", f"data.root={tmp_path / 'data'}"]
    call("data", "synth", *options, "--set", "synth.count=300")
    fixed = [*options, "--set", "trainer.shift=1"]
    search = ["tune", *fixed, "--trials", "3", "--epochs", "1"]

    tried: list[tuple[float, int]] = []
    real = trainer.fit_to

    def stopped_in_the_second_trial(examples, model, spec, parameters, *rest):
        tried.append((parameters.learning_rate, parameters.shift))
        if len(tried) == 2:
            raise KeyboardInterrupt
        real(examples, model, spec, parameters, *rest)

    monkeypatch.setattr(trainer, "fit_to", stopped_in_the_second_trial)  # TFX loads the tuner's module anew
    call(*search, exit_code=STOPPED)
    output = call(*search)
    assert len(tried) == 4  # the second trial again, and none of those that were complete
    assert tried[0] == (TrainerConfig().learning_rate, 1)  # the first is with the values in force
    assert tried[1] == tried[2]
    assert {shift for _, shift in tried} == {1}

    config = load_config(TINY, fixed[3::2])
    found = yaml.safe_load(Path(config.tuned_path).read_text(encoding="utf-8"))["trainer"]
    assert set(found) == KNOBS - {"shift"}
    assert f"{found['learning_rate']:.3g}" in output
    assert config.trainer == TrainerConfig(**found, shift=1, epochs=6)
    assert load_config(TINY, [*fixed[3::2], "trainer.batch_size=8"]).trainer.batch_size == 8
    assert load_config(TINY, fixed[3::2], tuned=False).trainer == TrainerConfig(shift=1, epochs=6)

    call(*search)
    again = history.latest_run(config.metadata_path)
    assert again is not None
    assert {step.state for step in again.steps} == {"cached"}


def test_a_tuned_file_that_is_not_right_is_named(tmp_path: Path) -> None:
    overrides = [f"root={tmp_path}"]
    path = Path(load_config(TINY, overrides).tuned_path)
    path.parent.mkdir(parents=True)
    path.write_text("trainer: {batch_size: 0}\n", encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=r"tuned\.yaml is not a valid configuration:\n +trainer\.batch_size"):
        load_config(TINY, overrides)
