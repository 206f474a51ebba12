"""When there is a reason to train anew."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from command import call

from components.errors import CaptchaPipelineError
from pipeline import history
from pipeline.config import Config, load_config
from pipeline.retraining import reason_to_retrain
from pipeline.surroundings import look_around

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
DONE = history.StepRecord("AtomicPusher", "done", 1.0, 9, {"pushed_model": ("uri",)})

Remember = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a pipeline with one span."""
    config = load_config(TINY, [f"root={tmp_path / 'output'}", f"data.root={tmp_path / 'data'}", "synth.count=30", "synth.shard_size=30"])
    add_span(config)
    return config


def add_span(config: Config) -> None:
    options = ["--set", f"root={config.root}", "--set", f"data.root={config.data.root}", "--set", "synth.count=30"]
    call("data", "synth", "--config", str(TINY), *options)


@pytest.fixture
def remember(config: Config, monkeypatch: pytest.MonkeyPatch) -> Remember:
    """Puts runs on record: complete ones of the configuration and the data as they are now, but for what is given."""

    def put(*changes: dict[str, Any]) -> None:
        now = history.RunRecord("1", datetime.now(timezone.utc), (DONE,), "1", True, look_around(config).fingerprint, (1,))
        monkeypatch.setattr(history, "runs", lambda _: [dataclasses.replace(now, **change) for change in changes])

    return put


def test_the_first_run(config: Config) -> None:
    assert reason_to_retrain(config) == "there has been no run yet"


def test_nothing_has_changed(config: Config, remember: Remember) -> None:
    remember({})
    assert reason_to_retrain(config) is None
    remember({"blessed": False, "pushed_version": None})
    assert reason_to_retrain(config) is None, "it would not be blessed again"


def test_a_run_that_was_cut_short(config: Config, remember: Remember) -> None:
    remember({}, {"run_id": "2", "steps": (dataclasses.replace(DONE, state="interrupted", outputs={}),)})
    assert reason_to_retrain(config) == "the last run, 2, did not come to its end"


def test_a_search_for_hyperparameters_is_no_run(config: Config, remember: Remember) -> None:
    remember({}, {"steps": (history.StepRecord("Tuner", "done", 1.0, 10, {}),), "fingerprint": None})
    assert reason_to_retrain(config) is None


def test_spans_that_have_come_and_gone(config: Config, remember: Remember) -> None:
    remember({})
    add_span(config)
    assert reason_to_retrain(config) == "new in the window: span 2"
    remember({"spans": (1, 2)})
    assert reason_to_retrain(config.model_copy(update={"data": config.data.model_copy(update={"window": 1})})) == (
        "no longer in the window: span 1"
    )


def test_another_fingerprint(config: Config, remember: Remember) -> None:
    remember({"fingerprint": "other"})
    assert str(reason_to_retrain(config)).startswith("the configuration, the code of a step or the content of a span")


def test_no_span_is_an_error(config: Config) -> None:
    with pytest.raises(CaptchaPipelineError, match="There are no spans"):
        reason_to_retrain(config.model_copy(update={"data": config.data.model_copy(update={"root": "/nowhere"})}))


def test_looking_does_not_import_tensorflow() -> None:
    code = "import sys, pipeline.retraining; sys.exit('tensorflow' in sys.modules or 'tfx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
