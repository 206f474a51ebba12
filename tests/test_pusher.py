from pathlib import Path

import pytest
from test_serving_dir import contents, make_model
from tfx.components.pusher.component import Pusher
from tfx.types import channel_utils, standard_artifacts
from tfx.utils import path_utils

from components.errors import CaptchaPipelineError
from components.pusher import AtomicPusher
from components.serving_dir import push, roll_back, versions


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


def run(tmp_path: Path, serving: Path, blessed: bool = True):
    """Runs the component's executor as TFX does; returns the model's folder and the output artifact."""
    model, blessing, pushed = standard_artifacts.Model(), standard_artifacts.ModelBlessing(), standard_artifacts.PushedModel()
    model.uri, blessing.uri, pushed.uri = (str(tmp_path / name) for name in ("model", "blessing", "pushed"))
    blessing.set_int_custom_property("blessed", int(blessed))
    component = AtomicPusher(channel_utils.as_channel([model]), channel_utils.as_channel([blessing]), str(serving), keep=5)
    assert isinstance(component, Pusher)
    folder = Path(path_utils.serving_model_path(model.uri))
    if not folder.exists():
        make_model(folder)
    executor = component.executor_spec.executor_class()
    executor.Do({"model": [model], "model_blessing": [blessing]}, {"pushed_model": [pushed]}, component.exec_properties)
    return folder, pushed


def test_blessed_model_is_pushed(tmp_path, serving):
    model, artifact = run(tmp_path, serving)
    (version,) = versions(serving)
    assert artifact.get_int_custom_property("pushed") == 1
    assert artifact.get_string_custom_property("pushed_version") == str(version.version)
    assert artifact.get_string_custom_property("pushed_destination") == str(version.path)
    assert contents(version.path) == contents(model) == contents(Path(artifact.uri))


def test_model_that_is_not_blessed_is_not_pushed(tmp_path, serving):
    _, artifact = run(tmp_path, serving, blessed=False)
    assert artifact.get_int_custom_property("pushed") == 0
    assert not serving.exists()


def test_push_that_was_not_noted_down_is_found_again(tmp_path, serving):
    _, first = run(tmp_path, serving)
    _, second = run(tmp_path, serving)
    assert len(versions(serving)) == 1
    assert first.get_string_custom_property("pushed_version") == second.get_string_custom_property("pushed_version")


def test_a_withdrawn_model_is_not_pushed_again(tmp_path, serving):
    good = push(make_model(tmp_path / "good", "good"), serving, keep=5)
    run(tmp_path, serving)
    back = roll_back(serving, good.version)
    _, artifact = run(tmp_path, serving)
    assert artifact.get_int_custom_property("pushed") == 0
    assert versions(serving)[0] == back


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptchaPipelineError, match=r"set pusher\.serving_dir"):
        run(tmp_path, tmp_path / "file" / "serving")
