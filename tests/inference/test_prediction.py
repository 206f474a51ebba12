"""The output of `predict` for unusual file names, in separate processes, because a process sets the output encoding at its start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from components.base import features
from components.data.captcha_spec import CaptchaSpec
from tests.support.paths import TINY

pytestmark = pytest.mark.slow

PROGRAM = Path(sys.executable).with_name("captcha-pipeline")
NAME = "caf\\xe9 京.png"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a model that reads no pictures, because no file of these tests can be opened."""
    path = tmp_path_factory.mktemp("model")
    module = tf.Module()
    module.read = tf.function(lambda image: {features.TEXT: image}, input_signature=[tf.TensorSpec([None], tf.string, name="image")])
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.read})
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / features.SPEC_FILE).write_text(json.dumps({"spec": CaptchaSpec().model_dump(mode="json")}))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1"])
@pytest.mark.parametrize("options", [["--json"], []])
def test_a_file_name_that_is_not_utf8(model: Path, tmp_path: Path, options: list[str], encoding: str) -> None:
    file = os.fsencode(tmp_path) + b"/caf\xe9 " + "京.png".encode()
    command: list[str | bytes | Path] = [PROGRAM, "predict", "--config", TINY, "--model", model, *options, file]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (1, b"")
    if options:
        assert json.loads(done.stdout.decode(encoding))["file"] == f"{tmp_path}/{NAME}"
    else:
        shown = NAME if encoding == "utf-8" else NAME.replace("京", "\\u4eac")
        assert shown in done.stdout.decode(encoding).replace("│", "")
