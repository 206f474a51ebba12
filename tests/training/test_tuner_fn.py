"""The search for hyperparameters: its space, its output, and its use in a run."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tfx.components.trainer.fn_args_utils import FnArgs

from components.base.errors import CaptchaPipelineError
from components.data.captcha_spec import CaptchaSpec
from components.training import run_fn, tuner_fn
from components.training.checkpoint import JUDGED_BY
from components.training.hyperparameters import Hyperparameters
from components.training.run_fn import Examples
from pipeline.cli.terminal import STOPPED
from pipeline.config.loading import load_config
from tests.support.command import call
from tests.support.paths import TINY, tiny_options
from tests.support.recorded_run import last_run

pytestmark = pytest.mark.slow

SPEC = CaptchaSpec(charset="012", length=2, width=40, height=24, channels=1)
KNOBS = {"learning_rate", "batch_size", "label_smoothing", "shift"}


def hyperparameters(**changes: Any) -> Hyperparameters:
    return Hyperparameters(**changes)


def test_the_configured_values_are_in_the_space_and_are_its_defaults() -> None:
    now = hyperparameters(learning_rate=0.5, batch_size=48, label_smoothing=0.07, shift=3)
    space = tuner_fn.search_space(now, SPEC, 1, [])
    assert space.values == {"learning_rate": 0.5, "batch_size": 48, "label_smoothing": 0.07, "shift": 3}


def test_fixed_keys_are_not_searched_and_batches_can_be_shared() -> None:
    space = tuner_fn.search_space(hyperparameters(batch_size=30), SPEC, 3, ["learning_rate", "shift", "epochs"])
    assert set(space.values) == {"batch_size", "label_smoothing"}
    (batch_size,) = (choice for choice in space.space if choice.name == "batch_size")
    assert all(size % 3 == 0 for size in batch_size.values)


def test_a_search_without_free_keys_is_an_error() -> None:
    with pytest.raises(CaptchaPipelineError, match="nothing is left to search for"):
        tuner_fn.search_space(hyperparameters(), SPEC, 1, sorted(KNOBS))


def test_the_trial_with_the_lowest_exported_cross_entropy_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the trial that reads most of the eval split, is best after its last epoch, or has no number as its result."""
    fits = iter([[0.5, 0.2, 0.9], [0.3, 0.25, 0.24], [math.nan] * 3])  # by trial and epoch

    def fit(examples: Any, model: Any, spec: Any, parameters: Any, length: Any, strategy: Any, initial_epoch: int, callbacks: Any) -> None:
        for callback in callbacks:
            callback.set_model(SimpleNamespace())
            for epoch, value in enumerate(next(fits)):
                callback.on_epoch_begin(epoch)
                callback.on_epoch_end(epoch, {"loss": 1.0, JUDGED_BY: value, "val_sequence_accuracy": value})

    monkeypatch.setattr(tuner_fn, "fit_to", fit)
    monkeypatch.setattr(tuner_fn, "compiled_model", lambda *_: None)
    monkeypatch.setattr(tuner_fn, "find_examples", lambda _: Examples([], [], 640, choose=True))
    config = {"spec": SPEC.model_dump_json(), "trainer": Hyperparameters().model_dump(), "fixed": [], "trials": 3, "epochs": 3}
    search = tuner_fn.tuner_fn(FnArgs(custom_config=config | {"search_dir": str(tmp_path)})).tuner
    search.search()
    trials = search.oracle.get_best_trials(3)
    assert [trial.score for trial in trials] == [0.2, 0.24, math.inf]
    assert trials[0].hyperparameters.values["learning_rate"] == Hyperparameters().learning_rate


@pytest.mark.long
def test_a_run_uses_the_tuned_values_except_for_keys_that_the_user_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tiny_options(tmp_path)
    call("data", "synth", *options, "--set", "synth.count=300")
    fixed = [*options, "--set", "trainer.shift=1"]
    search = ["tune", *fixed, "--trials", "3", "--epochs", "1"]

    tried: list[tuple[float, int]] = []
    real = run_fn.fit_to

    def stopped_in_the_second_trial(examples, model, spec, parameters, *rest):
        tried.append((parameters.learning_rate, parameters.shift))
        if len(tried) == 2:
            raise KeyboardInterrupt
        real(examples, model, spec, parameters, *rest)

    monkeypatch.setattr(run_fn, "fit_to", stopped_in_the_second_trial)  # TFX loads the tuner's module again
    stopped = call(*search, exit_code=STOPPED)
    output = call(*search)
    assert len(tried) == 4  # the second trial ran again, the completed trials did not
    assert tried[0] == (Hyperparameters().learning_rate, 1)  # the first trial has the configured values
    assert tried[1] == tried[2]
    assert {shift for _, shift in tried} == {1}

    config = load_config(TINY, fixed[3::2])
    found = yaml.safe_load(Path(config.tuned_path).read_text(encoding="utf-8"))["trainer"]
    assert set(found) == KNOBS - {"shift"}
    assert f"{found['learning_rate']:.3g}" in output
    *_, best = sorted(re.findall(r"eval cross-entropy (\S+),", stopped + output), reverse=True)
    assert f"3 trials of 1 epochs, cross-entropy on eval {best}." in Path(config.tuned_path).read_text(encoding="utf-8")
    assert config.trainer == Hyperparameters(**found, shift=1, epochs=6)
    assert load_config(TINY, [*fixed[3::2], "trainer.batch_size=8"]).trainer.batch_size == 8
    assert load_config(TINY, fixed[3::2], tuned=False).trainer == Hyperparameters(shift=1, epochs=6)

    call(*search)
    assert {step.state for step in last_run(config).steps} == {"cached"}


def test_an_invalid_tuned_file_is_named(tmp_path: Path) -> None:
    overrides = [f"root={tmp_path}"]
    path = Path(load_config(TINY, overrides).tuned_path)
    path.parent.mkdir(parents=True)
    path.write_text("trainer: {batch_size: 0}\n", encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=r"tuned\.yaml is not a valid configuration:\n +trainer\.batch_size"):
        load_config(TINY, overrides)
