import json
import shutil
from pathlib import Path

import pytest
from tfx.types import channel_utils, standard_artifacts
from tfx.utils import path_utils

from components.base.errors import CaptchaPipelineError
from components.evaluation.golden import GoldenReading
from components.pusher import AtomicPusher
from components.serving.serving_dir import best_on_golden_sets, push, roll_back, versions
from tests.support import exported_model
from tests.support.model_folder import contents, make_model

pytestmark = pytest.mark.slow


@pytest.fixture
def serving(tmp_path: Path) -> Path:
    return tmp_path / "serving"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Returns a folder with a real model and the test split of its trial."""
    folder = tmp_path_factory.mktemp("store")
    graph = exported_model.transform_graph(folder / "graph")
    exported_model.export(folder / "model", exported_model.random_model(), graph)
    exported_model.write_test_split(folder / "examples")
    return folder


@pytest.fixture
def run(store, tmp_path, serving):
    def run(blessed: bool = True, into: Path = serving, reading: GoldenReading | None = None):
        """Runs the component's executor as TFX does; returns the model's folder and the output artifact.

        `reading` is the reading of the golden set that the Evaluator stored with its blessing.
        """
        model, blessing, pushed = standard_artifacts.Model(), standard_artifacts.ModelBlessing(), standard_artifacts.PushedModel()
        model.uri, blessing.uri, pushed.uri = (str(tmp_path / name) for name in ("model", "blessing", "pushed"))
        blessing.set_int_custom_property("blessed", int(blessed))
        examples = standard_artifacts.Examples()
        examples.uri, examples.split_names = str(store / "examples"), json.dumps(["train", "eval", "test"])
        inputs = {"examples": [examples], "model": [model], "model_blessing": [blessing]}
        channels = {name: channel_utils.as_channel(artifacts) for name, artifacts in inputs.items()}
        component = AtomicPusher(**channels, serving_dir=str(into), keep=5)
        folder = Path(path_utils.serving_model_path(model.uri))
        if not folder.exists():
            shutil.copytree(store / "model", folder)
        if reading:
            Path(blessing.uri).mkdir(exist_ok=True)
            (Path(blessing.uri) / "golden.json").write_text(reading.model_dump_json())
        component.executor_spec.executor_class().Do(inputs, {"pushed_model": [pushed]}, component.exec_properties)
        return folder, pushed

    return run


@pytest.fixture
def untried(monkeypatch):
    """Skips the trial, which takes seconds and has its own tests."""
    monkeypatch.setattr("components.pusher.check_servable", lambda *_: None)


def test_a_blessed_model_is_pushed(run, serving):
    model, artifact = run()
    (version,) = versions(serving)
    assert artifact.get_int_custom_property("pushed") == 1
    assert artifact.get_string_custom_property("pushed_version") == str(version.version)
    assert artifact.get_string_custom_property("pushed_destination") == str(version.path)
    assert contents(version.path) == contents(model) == contents(Path(artifact.uri))


def test_a_model_that_is_not_blessed_is_not_pushed(run, serving):
    _, artifact = run(blessed=False)
    assert artifact.get_int_custom_property("pushed") == 0
    assert not serving.exists()


def test_a_push_records_the_reading_of_the_golden_set(run, untried, serving):
    reading = GoldenReading(content="c", pictures=3, misread=("00",))
    run(blessed=False, reading=reading)
    assert best_on_golden_sets(serving, "another") == (), "it is not pushed"
    run(reading=reading)
    (best,) = best_on_golden_sets(serving, "another")
    (pushed,) = versions(serving)
    assert (best.version, best.recipe, best.misread) == (pushed.version, pushed.recipe, ("00",))


def test_a_push_that_was_not_recorded_is_found_again(run, untried, serving):
    _, first = run()
    _, second = run()
    assert len(versions(serving)) == 1
    assert first.get_string_custom_property("pushed_version") == second.get_string_custom_property("pushed_version")


def test_a_withdrawn_model_is_neither_tried_nor_pushed_again(run, untried, tmp_path, serving, monkeypatch):
    good = push(make_model(tmp_path / "good", "good"), serving, keep=5)
    run()
    back = roll_back(serving, good.version)
    monkeypatch.setattr("components.pusher.check_servable", lambda *_: pytest.fail("it takes seconds, and for nothing"))
    _, artifact = run()
    assert artifact.get_int_custom_property("pushed") == 0
    assert versions(serving)[0] == back


def test_an_unwritable_folder_is_an_error(run, untried, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptchaPipelineError, match=r"set pusher\.serving_dir"):
        run(into=tmp_path / "file" / "serving")


@pytest.mark.long
def test_a_model_that_servers_cannot_load_is_not_pushed(run, store, tmp_path, serving):
    broken = shutil.copytree(store / "model", Path(path_utils.serving_model_path(str(tmp_path / "model"))))
    (broken / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(CaptchaPipelineError, match=r"was not pushed: a trial, which loads it as TensorFlow Serving does, failed"):
        run()
    assert not serving.exists()
    shutil.rmtree(broken)
    run()
    assert len(versions(serving)) == 1
