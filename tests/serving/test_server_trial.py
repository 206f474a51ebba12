"""A version that servers cannot use is not published."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.features import SPEC_FILE
from components.pusher import check_servable
from components.serving import server_trial, signatures
from tests.support import exported_model
from tests.support.encoded import encode
from tests.support.exported_model import SPEC
from tests.support.paths import ROOT
from tests.support.transform_run import draw, emitted

pytestmark = pytest.mark.slow


class FormerServer(signatures.CaptchaServer):
    """Saves the Keras model along with the graph, as releases before this check did."""

    def __init__(self, model: Any, *arguments: Any):
        super().__init__(model, *arguments)
        self._model = model
        del self._variables


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    graph = exported_model.transform_graph(tmp_path_factory.mktemp("graph"))
    return lambda: exported_model.export(tmp_path_factory.mktemp("exported") / "model", exported_model.random_model(), graph)


@pytest.fixture(scope="module")
def model(export: Callable[[], Path]) -> Path:
    return export()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_model.write_test_split(tmp_path_factory.mktemp("examples")) / "Split-test"


def test_a_good_model_passes(model: Path, records: Path) -> None:
    assert server_trial.find_fault(model, records) == ""


@pytest.mark.long
def test_a_model_of_an_earlier_release_is_refused(export: Callable[[], Path], records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "CaptchaServer", FormerServer)
    former = export()
    requests = {"serving_default": exported_model.PICTURES}
    assert exported_model.answers_in_python(former, requests)["serving_default"]["valid"].all(), "Python's loader hides it"
    with pytest.raises(CaptchaPipelineError, match=r"was not pushed(.|\n)*Could not find variable(.|\n)*run again"):
        check_servable(str(former), str(records))


def test_a_model_that_marks_good_pictures_as_not_valid_is_refused(model: Path, tmp_path: Path) -> None:
    large = emitted(encode(draw(SPEC, "аб").resize((40, 26))), "аб", SPEC)  # over the model's limit of pixels
    records = exported_model.write_test_split(tmp_path, [*exported_model.EXAMPLES, large]) / "Split-test"
    assert server_trial.find_fault(model, records) == "The signature serving_default marks 1 of 7 good pictures as not valid."


def test_answers_of_another_shape_are_refused(model: Path, records: Path, tmp_path: Path) -> None:
    spec = SPEC.model_dump(mode="json") | {"charset": SPEC.characters + "x"}
    other = shutil.copytree(model, tmp_path / "model")
    (other / "assets.extra" / SPEC_FILE).write_text(json.dumps({"spec": spec}))
    fault = server_trial.find_fault(other, records)
    assert fault == "The signature serving_default returns probabilities float32 (6, 3, 6) instead of float32 (6, 3, 7)."


def test_a_model_that_does_not_load_or_has_no_signatures_is_refused(model: Path, records: Path, tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    (tmp_path / "model" / "assets.extra").symlink_to(model / "assets.extra")
    with pytest.raises(ValueError, match="no signature serving_default"):
        server_trial.find_fault(tmp_path / "model", records)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(CaptchaPipelineError, match=r"exit code 1(.|\n)*saved_model\.pb"):
        check_servable(str(tmp_path / "model"), str(records))


def test_a_split_without_pictures_is_named(model: Path, tmp_path: Path) -> None:
    assert server_trial.find_fault(model, tmp_path).startswith(f"{tmp_path} has no picture")


def test_a_model_that_does_not_answer_in_time_is_refused(model: Path, records: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match=r"did not answer within 0\.1 seconds"):
        check_servable(str(model), str(records), seconds=0.1)


def test_neither_keras_nor_tfx_is_imported(model: Path, records: Path) -> None:
    code = (
        "import sys; from components.serving.server_trial import main; status = main(sys.argv[1:]); "
        "loaded = {name.split('.')[0] for name, module in sys.modules.items() if module}; "
        "sys.exit(status or str(loaded & {'keras', 'tfx', 'apache_beam'} or '') or None)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model), str(records)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
