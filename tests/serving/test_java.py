"""The exported model, loaded by TensorFlow for Java: `make test-java` compiles tests/java and runs this test."""

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.base.features import TEXT, VALID
from tests.support import exported_model
from tests.support.exported_model import REQUESTS

READER = os.environ.get("JAVA_READER")
pytestmark = pytest.mark.skipif(not READER, reason="JAVA_READER is not set: run make test-java")


def read_in_java(directory: Path) -> dict[str, Any]:
    folder = Path(str(READER))
    classes = f"{folder / 'classes'}:{(folder / 'classpath').read_text().strip()}"
    requests = {name: [base64.b64encode(value).decode() for value in values] for name, values in REQUESTS.items()}
    done = subprocess.run(
        ["java", "-cp", classes, "Reader", str(directory)],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_java_and_python_give_the_same_answers(tmp_path: Path) -> None:
    graph = exported_model.transform_graph(tmp_path / "graph")
    model = exported_model.export(tmp_path / "model", exported_model.random_model(), graph)
    ours, theirs = read_in_java(model), exported_model.answers_in_python(model, REQUESTS)
    assert ours.keys() == theirs.keys()
    for signature, by_name in theirs.items():
        assert ours[signature].keys() == by_name.keys()
        for name, answer in by_name.items():
            values = ours[signature][name]["values"]
            if name == TEXT:
                values = [text.encode() for text in values]
            exported_model.assert_equal(np.reshape(values, ours[signature][name]["shape"]), answer)
    assert ours["serving_default"][VALID]["values"] == [True, False, True, False, False, True, True, True]
    assert any(ours["serving_default"][TEXT]["values"])
