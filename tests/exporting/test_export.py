"""`captcha-pipeline export`: what it writes, when it writes nothing, and `predict` with its result."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from captcha_read.model import Model
from components.base.errors import CaptchaPipelineError
from components.serving import serving_dir
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.exporting.export import export
from pipeline.inference.evaluation import good_records
from pipeline.inference.served_model import ServedModel
from tests.support.command import call
from tests.support.encoded import encode
from tests.support.exported_model import PICTURES, SPEC, random_model, transform_graph
from tests.support.exported_model import export as export_saved_model
from tests.support.transform_run import draw

pytestmark = pytest.mark.slow

LABELS = ["аб", "漢字в", "в漢", "бба", "字а", "аа", "абв", "漢漢"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a configuration, a span, and two versions."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "own").mkdir()
    for number in range(80):
        label = LABELS[number % len(LABELS)]
        (folder / "own" / f"{label}_{number}.png").write_bytes(encode(draw(SPEC, label, number)))
    settings = {
        "name": "small",
        "root": str(folder / "output"),
        "captcha": SPEC.model_dump(mode="json"),
        "data": {"root": str(folder / "data"), "splits": {"train": 1, "eval": 1, "test": 1}},
    }
    (folder / "small.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    call("data", "import", str(folder / "own"), "--pattern", "{label}_*.png", "--config", str(folder / "small.yaml"))
    graph = transform_graph(folder / "transform")
    for number in (1, 2):
        made = export_saved_model(folder / f"model-{number}", random_model(seed=number), graph, f"fingerprint-{number}")
        serving_dir.push(made, folder / "output" / "small" / "serving" / "small", keep=10)
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> Config:
    """Returns the configuration, with a copy of the output that a test may change."""
    shutil.copytree(folder / "output", tmp_path / "output")
    return load_config(folder / "small.yaml", [f"root={tmp_path / 'output'}"])


def newest(config: Config) -> serving_dir.Pushed:
    return serving_dir.versions(config.serving_dir)[0]


def test_an_export_reads_like_its_version(config: Config) -> None:
    version = newest(config)
    done = export(config, version.path, "onnx")
    assert done.folder == Path(config.exports_dir) / str(version.version) / "onnx"
    assert sorted(path.name for path in done.folder.parent.rglob("*")) == ["manifest.json", "model.onnx", "onnx"]
    pictures = [data for data, _ in good_records(config, "test", config.data.read_window(), SPEC)]
    assert len(pictures) == done.proof.pictures == done.proof.same_texts > 10
    assert 0 < done.proof.largest_difference < 1e-4
    model = Model(done.folder / "model.onnx")
    assert [reading.text for reading in model.read(pictures)] == [reading.text for reading in ServedModel(version.path).read(pictures)]

    content = model.manifest.content
    about = json.loads((version.path / "assets.extra" / "captcha.json").read_text(encoding="utf-8"))
    assert content["proof"]["pictures"] == len(pictures)
    assert (content["version"], content["fingerprint"]) == (version.version, "fingerprint-2")
    assert content["text"]["characters"] == list(SPEC.characters)
    assert (content["text"]["blank_id"], content["text"]["min_length"], content["text"]["max_length"]) == (5, 2, 3)
    assert content["picture"]["max_pixels"] == about["max_pixels"]
    assert content["input"] == {"name": "pixels", "type": "uint8", "shape": ["N", 12, 24, 3]}
    assert content["output"] == {"name": "probabilities", "type": "float32", "shape": ["N", 3, 6]}


def test_an_export_changes_nothing_of_the_version(config: Config, folder: Path) -> None:
    before = {path: path.read_bytes() for path in Path(config.serving_dir).rglob("*") if path.is_file()}
    export(config, newest(config).path, "onnx")
    assert {path: path.read_bytes() for path in Path(config.serving_dir).rglob("*") if path.is_file()} == before
    # A push that is repeated after a kill still finds that it has been done.
    assert serving_dir.push(folder / "model-2", config.serving_dir, keep=10).version == newest(config).version


def test_int8_is_smaller_and_proved_by_its_accuracy(config: Config) -> None:
    exact, small = (export(config, newest(config).path, "onnx", int8) for int8 in (False, True))
    sizes = [(done.folder / "model.onnx").stat().st_size for done in (exact, small)]
    assert sizes[1] < sizes[0] / 2
    assert small.folder.name == "onnx-int8"
    assert small.proof.largest_difference > exact.proof.largest_difference
    assert small.proof.accuracy >= small.proof.saved_model_accuracy - 0.001


def test_predict_reads_with_the_export_and_without_tensorflow(config: Config, folder: Path, tmp_path: Path) -> None:
    good, gif, text = tmp_path / "good.png", tmp_path / "good.gif", tmp_path / "text.png"
    good.write_bytes(PICTURES[0])
    gif.write_bytes(encode(draw(SPEC, "аб", 3), "GIF"))
    text.write_text("no picture")
    words = ["predict", "--json", "--config", str(folder / "small.yaml"), "--set", f"root={config.root}", *map(str, (good, gif, text))]
    slow = [json.loads(line) for line in call(*words, exit_code=1).splitlines()]
    export(config, newest(config).path, "onnx")

    without = "import sys; sys.modules |= dict.fromkeys(('tensorflow', 'keras')); from pipeline.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", without, *words], capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (1, "")
    quick = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["text"] is None for answer in quick] == [False, False, True]
    for ours, theirs in zip(quick, slow, strict=True):
        assert ours["position_confidence"] == pytest.approx(theirs["position_confidence"], abs=1e-5)
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-5)
        assert {key: ours[key] for key in ("file", "text", "error")} == {key: theirs[key] for key in ("file", "text", "error")}


def test_predict_refuses_a_changed_export(config: Config, folder: Path, tmp_path: Path) -> None:
    done = export(config, newest(config).path, "onnx")
    with (done.folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    (tmp_path / "good.png").write_bytes(PICTURES[0])
    with pytest.raises(CaptchaPipelineError, match=f"has changed.*Or remove the folder {re.escape(str(done.folder))}"):
        call("predict", "--config", str(folder / "small.yaml"), "--set", f"root={config.root}", str(tmp_path / "good.png"))


def test_predict_uses_an_export_only_for_its_own_model(config: Config) -> None:
    from pipeline.inference.versions import quick_export

    latest, earlier = serving_dir.versions(config.serving_dir)
    done = export(config, latest.path, "onnx")
    assert quick_export(config, latest.path) == done.folder
    assert quick_export(config, earlier.path) is None
    # A rollback makes a copy with a number of its own, which reads with the export of its original.
    export(config, earlier.path, "onnx")
    again = serving_dir.roll_back(config.serving_dir, earlier.version)
    assert quick_export(config, again.path) == Path(config.exports_dir) / str(earlier.version) / "onnx"
    # The same number in another serving folder is another model.
    shutil.copytree(earlier.path, elsewhere := Path(config.root) / "elsewhere" / str(latest.version))
    assert quick_export(config, elsewhere) is None


def test_a_failed_proof_leaves_nothing(config: Config, tmp_path: Path) -> None:
    version = newest(config)
    random_model(seed=9).save_weights(version.path / "assets.extra" / "model.weights.h5")  # not those of the SavedModel
    with pytest.raises(CaptchaPipelineError, match=r"is not written: it reads \d+ of \d+ test pictures otherwise than the SavedModel"):
        export(config, version.path, "onnx", out=tmp_path / "out" / "export")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(CaptchaPipelineError, match="is not written"):
        export(config, version.path, "onnx")
    assert [path for path in Path(config.exports_dir).rglob("*") if path.is_file() or path.name.startswith(".")] == []


def test_a_failed_proof_keeps_the_earlier_export(config: Config) -> None:
    version = newest(config)
    done = export(config, version.path, "onnx")
    before = {path.name: path.read_bytes() for path in done.folder.iterdir()}
    export(config, version.path, "onnx")
    assert {path.name: path.read_bytes() for path in done.folder.iterdir()} == before  # the same again
    random_model(seed=9).save_weights(version.path / "assets.extra" / "model.weights.h5")
    with pytest.raises(CaptchaPipelineError, match="is not written"):
        export(config, version.path, "onnx")
    assert {path.name: path.read_bytes() for path in done.folder.iterdir()} == before


def test_nothing_in_a_given_folder_is_overwritten(config: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(CaptchaPipelineError, match="is not an empty folder"):
        export(config, newest(config).path, "onnx", out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_what_cannot_be_exported_is_explained(config: Config, tmp_path: Path) -> None:
    version = newest(config)
    with pytest.raises(CaptchaPipelineError, match=r"no export format 'tflight'\. Formats: onnx"):
        export(config, version.path, "tflight")
    with pytest.raises(CaptchaPipelineError, match="is not a version of a serving folder"):
        export(config, tmp_path, "onnx")
    about = version.path / "assets.extra" / "captcha.json"
    content = json.loads(about.read_text(encoding="utf-8"))
    about.write_text(json.dumps({key: value for key, value in content.items() if key != "pixel_mean"}), encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match=r"does not have pixel_mean.*retrain --force"):
        export(config, version.path, "onnx")
    about.write_text(json.dumps(content | {"preset": "vgg-other"}), encoding="utf-8")
    with pytest.raises(CaptchaPipelineError, match="cannot be read"):
        export(config, version.path, "onnx")


def test_a_missing_package_is_named(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "pipeline.exporting.onnx_graph", raising=False)
    with pytest.raises(CaptchaPipelineError, match=r"needs onnx, which is not installed. In the clone: pip install '\.\[export\]'"):
        export(config, newest(config).path, "onnx")


def test_the_command_prints_the_proof(config: Config, folder: Path) -> None:
    output = call("export", "--config", str(folder / "small.yaml"), "--set", f"root={config.root}")
    assert re.search(r"the same text for (\d+) of \1 test pictures. Largest difference of a probability: \d", output)
    assert "/onnx" in output
