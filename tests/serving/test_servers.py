"""The exported model as servers use it: variables restored by the saver's operation, signatures fed by name."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_transform as tft
from tensorflow.core.protobuf import saved_model_pb2

from components.base.features import CONFIDENCE, LABEL_IDS, PROBABILITIES, TEXT, VALID
from components.serving.server_trial import answers
from components.serving.serving_dir import push, roll_back
from components.training.model import PRESETS, Preset
from tests.support import exported_model
from tests.support.exported_model import PICTURES, REQUESTS, SPEC

pytestmark = pytest.mark.slow

# Each preset with a sixteenth of its filters, and with 1/256 of its dense units.
SMALL = {
    name: dataclasses.replace(
        preset,
        groups=tuple(tuple(-(-count // 16) for count in group) for group in preset.groups),
        dense=tuple(units // 256 for units in preset.dense),
    )
    for name, preset in PRESETS.items()
}


def assert_read_alike(directory: Path, design: Preset) -> None:
    requests = {name: values for name, values in REQUESTS.items() if name != "explain" or design.heads == "counted"}
    ours, theirs = answers(directory, requests), exported_model.answers_in_python(directory, requests)
    for signature, by_name in theirs.items():
        assert ours[signature].keys() == by_name.keys()
        for name, answer in by_name.items():
            exported_model.assert_equal(ours[signature][name], answer)


@pytest.mark.parametrize(
    "design", [pytest.param(SMALL[name], id=name, marks=() if name == "vgg-slim" else pytest.mark.long) for name in SMALL]
)
def test_every_preset_reads_the_same_in_a_session_as_in_python(tmp_path: Path, graph: tft.TFTransformOutput, design: Preset) -> None:
    model = exported_model.random_model(design)
    directory = exported_model.export(tmp_path / "model", model, graph)
    assert_read_alike(directory, design)
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    handles = [node for node in saved.meta_graphs[0].graph_def.node if node.op == "VarHandleOp"]
    assert len(handles) == len(model.variables)


def test_bad_pictures_are_marked(model: Path) -> None:
    found = answers(model, REQUESTS)
    answer = found["serving_default"]
    assert answer[VALID].tolist() == [True, False, True, False, False, True, True, True]
    assert set(answer[TEXT][~answer[VALID]]) == {b""}
    assert not answer[CONFIDENCE][~answer[VALID]].any()
    assert answer[PROBABILITIES].shape == (8, SPEC.max_length, SPEC.num_classes)
    assert found["serving_examples"][VALID].tolist() == [True, False, *[True] * 5]
    assert found["transform_features"][LABEL_IDS].tolist() == [SPEC.encode(label) for label in exported_model.LABELS]


def test_a_version_made_by_a_rollback_can_be_served(tmp_path: Path, model: Path, graph: tft.TFTransformOutput) -> None:
    other = exported_model.export(tmp_path / "other", exported_model.random_model(seed=1), graph, fingerprint="other")
    first, _ = [push(directory, tmp_path / "serving", keep=5) for directory in (model, other)]
    back = roll_back(tmp_path / "serving", first.version)
    images = {"serving_default": PICTURES}
    expected = exported_model.answers_in_python(model, images)["serving_default"][PROBABILITIES]
    exported_model.assert_equal(answers(back.path, images)["serving_default"][PROBABILITIES], expected)
    assert not np.allclose(answers(other, images)["serving_default"][PROBABILITIES], expected)


def cli(*arguments: str) -> str:
    """Runs TensorFlow's command saved_model_cli; returns its output."""
    command = [str(Path(sys.executable).with_name("saved_model_cli")), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_saved_model_cli_shows_the_signatures(model: Path) -> None:
    shown = cli("show", "--dir", str(model), "--tag_set", "serve", "--signature_def", "serving_default")
    assert "inputs['image'] tensor_info:\n      dtype: DT_STRING\n      shape: (-1)" in shown
    for name, form in {TEXT: "DT_STRING", PROBABILITIES: "DT_FLOAT", CONFIDENCE: "DT_FLOAT", VALID: "DT_BOOL"}.items():
        assert f"outputs['{name}'] tensor_info:\n      dtype: {form}" in shown


def test_saved_model_cli_runs_the_signatures(tmp_path: Path, model: Path) -> None:
    images = [PICTURES[0], b"no picture", PICTURES[1]]
    np.save(tmp_path / "images.npy", np.array(images))
    where = ["--dir", str(model), "--tag_set", "serve", "--signature_def", "serving_default"]
    cli("run", *where, "--inputs", f"image={tmp_path / 'images.npy'}", "--outdir", str(tmp_path / "out"))
    expected = exported_model.answers_in_python(model, {"serving_default": images})["serving_default"]
    exported_model.assert_equal(np.load(tmp_path / "out" / f"{PROBABILITIES}.npy"), expected[PROBABILITIES])
    assert np.load(tmp_path / "out" / f"{VALID}.npy").tolist() == [True, False, True]
