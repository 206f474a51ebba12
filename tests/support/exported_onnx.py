"""An ONNX export without a proof, for the tests of its readers."""

import hashlib
import json
from pathlib import Path

from captcha_read.manifest import MANIFEST
from pipeline.exporting.manifest import manifest_of
from pipeline.exporting.onnx_graph import onnx_graph
from pipeline.exporting.subject import load_version


def write_export(version_folder: Path, folder: Path) -> Path:
    """Writes the model and the manifest of a version into a new folder; returns the path of the model."""
    version, model = load_version(version_folder)
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    file.write_bytes(onnx_graph(model, version.about["pixel_mean"], version.about["pixel_std"]).SerializeToString())
    manifest = manifest_of(version, "onnx", False, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return file
