from pathlib import Path
from typing import Any

import pytest
from tfx.types import channel_utils, standard_artifacts
from tfx.utils import path_utils

from components.base.recipe import recipe
from components.data.captcha_spec import CaptchaSpec
from components.evaluation import golden
from components.evaluation.golden import GoldenReading
from components.latest_pushed_model import LatestPushedModel
from components.serving.serving_dir import latest_pushed, push, versions
from tests.support.model_folder import contents, make_model

SPEC = CaptchaSpec()


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def properties(serving: Path, as_of: str = "none") -> dict[str, Any]:
    made_from = {"settings": "{}", "epochs": 8, "attempt": 0}
    return made_from | {"serving_dir": str(serving), "spec": SPEC.model_dump_json(), "as_of": as_of, "source_digest": "0"}


def mine(window: str = "mine") -> str:
    """Returns the recipe of the candidate."""
    return recipe("{}", window, 8, 0)


def run(serving: Path, out: Path, window: str = "mine", as_of: str = "none"):
    """Runs the component's executor as TFX does, for a model of the spans `window`; returns its output artifact."""
    examples = standard_artifacts.Examples()
    examples.set_string_custom_property("window", window)
    component = LatestPushedModel(examples=channel_utils.as_channel([examples]), **properties(serving, as_of=as_of))
    artifact = component.outputs["model"].type()
    assert isinstance(artifact, standard_artifacts.Model)
    out.mkdir()
    artifact.uri = str(out)
    component.executor_spec.executor_class().Do({"examples": [examples]}, {"model": [artifact]}, properties(serving, as_of=as_of))
    assert artifact.get_string_custom_property("recipe") == mine(window)
    return artifact


def test_no_model_before_the_first_push(tmp_path, serving):
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("has_model") == 0
    assert "nothing has been pushed" in artifact.get_string_custom_property("reason")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_model_in_production_is_the_baseline(tmp_path, serving):
    model = make_model(tmp_path / "model", "another")
    pushed = push(model, serving, keep=5)
    artifact = run(serving, tmp_path / "out", as_of=str(pushed.version))
    assert artifact.get_int_custom_property("has_model") == 1
    assert artifact.get_int_custom_property("version") == pushed.version
    assert artifact.get_string_custom_property("fingerprint") == "another"
    assert contents(Path(path_utils.serving_model_path(artifact.uri))) == contents(model)


def test_the_best_reading_of_the_golden_set_is_passed_on(tmp_path, serving):
    """It is passed on even if another model is in production; a model's own reading is left out."""
    for name, wrong in {"best": ("00",), "newest": ("00", "01")}.items():
        push(make_model(tmp_path / name, name, recipe=mine(name)), serving, 5, GoldenReading(content="c", pictures=3, misread=wrong))
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("version") == versions(serving)[0].version
    (best,) = golden.from_json((tmp_path / "out" / "golden.json").read_text())
    assert (best.recipe, best.misread, best.models) == (mine("best"), ("00",), 2)
    run(serving, tmp_path / "own", window="best")
    assert [best.recipe for best in golden.from_json((tmp_path / "own" / "golden.json").read_text())] == [mine("newest")]


def test_a_model_is_not_its_own_baseline(tmp_path, serving):
    push(make_model(tmp_path / "model", recipe=mine()), serving, keep=5)
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("has_model") == 0
    assert "(versions in total: 1)" in artifact.get_string_custom_property("reason")
    of_other_spans = run(serving, tmp_path / "other", window="other")
    assert of_other_spans.get_int_custom_property("has_model") == 1, "the same configuration on other spans makes another model"


def test_a_model_with_another_spec_is_the_last_resort(tmp_path, serving):
    other = CaptchaSpec(charset="ABC", length=3)
    push(make_model(tmp_path / "old", "old"), serving, keep=5)
    push(make_model(tmp_path / "other", "other", spec=other), serving, keep=5)
    found = [latest_pushed(serving, fingerprint, spec) for fingerprint, spec in (("mine", SPEC), ("mine", other), ("old", SPEC))]
    assert [pushed and pushed.fingerprint for pushed in found] == ["old", "other", "other"]


def test_the_properties_that_tfx_compares_for_its_cache(serving):
    examples = channel_utils.as_channel([standard_artifacts.Examples()])
    component = LatestPushedModel(examples=examples, **properties(serving, as_of="17"))
    assert component.exec_properties == properties(serving, as_of="17")
    assert list(component.inputs) == ["examples"]
