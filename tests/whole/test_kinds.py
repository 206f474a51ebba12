"""Other kinds of captchas run from the same code, by configuration alone."""

from pathlib import Path

import pytest
import yaml

from components.base.features import IMAGE
from components.data.example_proto import Example
from components.data.tfrecords import Record, read_records
from components.serving import serving_dir
from pipeline.config.loading import load_config
from pipeline.inference.served_model import ServedModel
from tests.support.command import call

pytestmark = pytest.mark.long

# Together: a named charset, and a list of characters of two scripts; folded and exact case; one length and a range; colour and grey.
KINDS = {
    "alnum": {"charset": "alnum", "case_sensitive": False, "length": 4, "width": 128, "height": 64},
    "four-to-eight": {"charset": "abXY23дяЖщы", "length": {"min": 4, "max": 8}, "width": 160, "height": 40, "channels": 1},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_runs_by_configuration_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.yaml"
    tree = {
        "name": name,
        "root": str(tmp_path / "output"),
        "captcha": KINDS[name],
        "data": {"root": str(tmp_path / "data"), "splits": {"train": 4, "eval": 1, "test": 1}},
        "synth": {"count": 240},
        "trainer": {"epochs": 1, "batch_size": 32},
        # This test does not check whether the model learns.
        "evaluator": {"min_sequence_accuracy": 0},
    }
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    call("data", "synth", "--config", str(path))
    call("run", "--config", str(path))
    config = load_config(path)
    (pushed,) = serving_dir.versions(config.serving_dir)
    model = ServedModel(pushed.path)
    assert model.spec == config.captcha
    shard = next((tmp_path / "data" / "span-000001" / "test").glob("*.gz"))
    records = [item for item in read_records(str(shard)) if isinstance(item, Record)]
    images = [Example.FromString(record.data).features.feature[IMAGE].bytes_list.value[0] for record in records]
    for reading in model.read(images):
        assert reading.valid
        assert len(reading.text) <= config.captcha.max_length
        assert set(reading.text) <= set(config.captcha.characters)
        assert reading.probabilities.shape == (config.captcha.max_length, config.captcha.num_classes)
