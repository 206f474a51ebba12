"""Each format is exported with a manifest and a proof, and reads like the SavedModel. tests/exporting/test_html_export.py has the page."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.errors import CaptchaPipelineError
from pipeline.config.config import Config
from pipeline.exporting import litert_file, openvino_file
from pipeline.exporting.export import export
from pipeline.exporting.formats import FORMATS
from pipeline.inference.served_model import ServedModel
from tests.support.exported_model import PICTURES
from tests.support.exported_version import make_version

pytestmark = pytest.mark.slow

BY_PIXELS = ("onnx", "litert", "openvino")
WRITTEN = {"onnx": {"model.onnx"}, "litert": {"model.tflite"}, "openvino": {"model.xml", "model.bin"}}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    return make_version(tmp_path_factory.mktemp("version"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", BY_PIXELS)
def test_an_export_reads_like_the_saved_model(version: tuple[Config, Path], tmp_path: Path, name: str) -> None:
    config, folder = version
    done = export(config, folder, name, out=tmp_path / "export")
    assert {path.name for path in done.folder.iterdir()} == {"manifest.json", *WRITTEN[name]}
    manifest = json.loads((done.folder / "manifest.json").read_text())
    further = {path: digest(done.folder / path) for path in WRITTEN[name] - {manifest["file"]}}
    assert (manifest["format"], manifest["sha256"]) == (name, digest(done.folder / manifest["file"]))
    assert manifest["further_files"] == further
    assert manifest["proof"]["pictures"] == manifest["proof"]["same_texts"] == len(PICTURES)
    with FORMATS[name].reader(done.folder / manifest["file"]) as read:
        found = read(PICTURES)
    for (ours, probabilities), theirs in zip(found, ServedModel(folder).read(PICTURES), strict=True):
        assert ours.text == theirs.text
        np.testing.assert_allclose(probabilities, theirs.probabilities, atol=1e-5)


def test_weights_of_8_bits_for_litert(version: tuple[Config, Path], tmp_path: Path) -> None:
    config, folder = version
    exports = {int8: export(config, folder, "litert", int8=int8, out=tmp_path / str(int8)) for int8 in (False, True)}
    sizes = {int8: (done.folder / "model.tflite").stat().st_size for int8, done in exports.items()}
    assert sizes[True] < 0.4 * sizes[False]
    with FORMATS["litert"].reader(exports[True].folder / "model.tflite") as read:
        found = read(PICTURES)
    differences = [
        np.abs(ours - theirs.probabilities).max() for (_, ours), theirs in zip(found, ServedModel(folder).read(PICTURES), strict=True)
    ]
    assert 0 < max(differences) < 0.2


@pytest.mark.parametrize("name", ["openvino", "html"])
def test_a_format_without_8_bits(version: tuple[Config, Path], tmp_path: Path, name: str) -> None:
    config, folder = version
    with pytest.raises(CaptchaPipelineError, match=f"{name} has no variant with 8-bit weights"):
        export(config, folder, name, int8=True, out=tmp_path / "export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", [litert_file, openvino_file])
def test_an_export_that_reads_otherwise_is_not_written(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    config, folder = version
    name = module.__name__.rpartition(".")[2].removesuffix("_file")
    whole = FORMATS[name].write

    def wrong(subject: Any, path: Path) -> None:
        subject.model.set_weights([1.01 * weight for weight in subject.model.get_weights()])
        whole(subject, path)

    forms = {**FORMATS} | {name: dataclasses.replace(FORMATS[name], write=wrong)}
    monkeypatch.setattr("pipeline.exporting.export.FORMATS", forms)
    with pytest.raises(CaptchaPipelineError, match="is not written"):
        export(config, folder, name, out=tmp_path / "export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "package"), [("litert", "ai_edge_litert"), ("openvino", "openvino"), ("html", "playwright")])
def test_a_missing_package_is_named(
    version: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    config, folder = version
    monkeypatch.setattr("pipeline.exporting.browser.executable", lambda: "chromium")
    for module in (package, "ai_edge_litert.interpreter", "playwright.sync_api"):
        if module.startswith(package):
            monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(CaptchaPipelineError, match=rf"needs {package}\S*, which is not installed\. .*'\.\[export\]'"):
        export(config, folder, name, out=tmp_path / "export")
    assert not list(tmp_path.iterdir())
