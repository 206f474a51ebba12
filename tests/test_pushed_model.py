from pathlib import Path

import pytest
from test_serving_dir import contents, make_model
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components import golden
from components.captcha import CaptchaSpec
from components.golden import GoldenReading
from components.pushed_model import LatestPushedModel
from components.serving_dir import latest_pushed, push, versions

SPEC = CaptchaSpec()


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def run(serving: Path, out: Path, fingerprint: str = "mine", as_of: str = "none"):
    """Runs the component's executor as TFX does; returns its output artifact."""
    properties = {"serving_dir": str(serving), "fingerprint": fingerprint, "spec": SPEC.model_dump_json(), "as_of": as_of}
    component = LatestPushedModel(**properties)
    artifact = component.outputs["model"].type()
    assert isinstance(artifact, standard_artifacts.Model)
    out.mkdir()
    artifact.uri = str(out)
    component.executor_spec.executor_class().Do({}, {"model": [artifact]}, properties)
    return artifact


def test_nothing_pushed(tmp_path, serving):
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("has_model") == 0
    assert "nothing has been pushed" in artifact.get_string_custom_property("reason")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_model_in_production(tmp_path, serving):
    model = make_model(tmp_path / "model", "another")
    pushed = push(model, serving, keep=5)
    artifact = run(serving, tmp_path / "out", as_of=str(pushed.version))
    assert artifact.get_int_custom_property("has_model") == 1
    assert artifact.get_int_custom_property("version") == pushed.version
    assert contents(Path(path_utils.serving_model_path(artifact.uri))) == contents(model)


def test_the_best_on_the_golden_set_goes_along(tmp_path, serving):
    """Though another model is in production; and without one too, where what was pushed reads something else or is the same."""
    for name, wrong in {"best": ("00",), "newest": ("00", "01")}.items():
        push(make_model(tmp_path / name, name), serving, 5, GoldenReading(content="c", pictures=3, misread=wrong))
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("version") == versions(serving)[0].version
    (best,) = golden.from_json((tmp_path / "out" / "golden.json").read_text())
    assert (best.fingerprint, best.misread, best.models) == ("best", ("00",), 2)
    run(serving, tmp_path / "own", fingerprint="best")
    assert [best.fingerprint for best in golden.from_json((tmp_path / "own" / "golden.json").read_text())] == ["newest"]


def test_own_version_is_no_baseline(tmp_path, serving):
    push(make_model(tmp_path / "model", "mine"), serving, keep=5)
    artifact = run(serving, tmp_path / "out")
    assert artifact.get_int_custom_property("has_model") == 0
    assert "none of the 1 versions" in artifact.get_string_custom_property("reason")


def test_what_reads_something_else_is_the_last_resort(tmp_path, serving):
    other = CaptchaSpec(charset="ABC", length=3)
    push(make_model(tmp_path / "old", "old"), serving, keep=5)
    push(make_model(tmp_path / "other", "other", spec=other), serving, keep=5)
    found = [latest_pushed(serving, fingerprint, spec) for fingerprint, spec in (("mine", SPEC), ("mine", other), ("old", SPEC))]
    assert [pushed and pushed.fingerprint for pushed in found] == ["old", "other", "other"]


def test_what_tfx_compares_to_reuse_an_answer(serving):
    component = LatestPushedModel(serving_dir=str(serving), fingerprint="mine", spec=SPEC.model_dump_json(), as_of="17")
    assert set(component.exec_properties) >= {"serving_dir", "fingerprint", "spec", "as_of"}
    assert component.inputs == {}
