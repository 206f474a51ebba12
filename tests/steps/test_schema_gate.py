"""The data that the gate accepts, and its messages for other data, with TFDV's own statistics."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2
from tfx.components.statistics_gen.executor import Executor as StatisticsGenExecutor
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import json_utils

from components.base.errors import CaptchaPipelineError
from components.base.features import SPLITS
from components.data.captcha_spec import CaptchaSpec
from components.schema_gate import CaptchaSchema, GateExecutor, SchemaGate, captcha_schema
from pipeline.config.engines import Engine
from tests.support.example_gen_run import SPEC, Outcome, make_span, record, run

pytestmark = pytest.mark.slow

RANGE = CaptchaSpec(charset="あいう", length={"min": 2, "max": 3}, width=24, height=12)


def schema_artifact(path: Path, spec: CaptchaSpec) -> standard_artifacts.Schema:
    """Returns the output of CaptchaSchema, run as TFX runs it."""
    artifact = standard_artifacts.Schema()
    artifact.uri = str(path)
    executor = CaptchaSchema.EXECUTOR_SPEC.executor_class()
    executor.Do({}, {"schema": [artifact]}, {"spec": spec.model_dump_json(), "source_digest": ""})
    return artifact


def statistics(path: Path, outcome: Outcome, schema: standard_artifacts.Schema) -> standard_artifacts.ExampleStatistics:
    artifact = standard_artifacts.ExampleStatistics()
    artifact.uri = str(path)
    executor = StatisticsGenExecutor(StatisticsGenExecutor.Context(beam_pipeline_args=Engine().beam_args()))
    executor.Do({"examples": [outcome.examples], "schema": [schema]}, {"statistics": [artifact]}, {"exclude_splits": json_utils.dumps([])})
    return artifact


def gate(path: Path, stats: standard_artifacts.ExampleStatistics, schema: standard_artifacts.Schema) -> standard_artifacts.ExampleAnomalies:
    artifact = standard_artifacts.ExampleAnomalies()
    artifact.uri = str(path)
    properties = {"exclude_splits": json_utils.dumps([]), "custom_validation_config": None}
    GateExecutor().Do({"statistics": [stats], "schema": [schema]}, {"anomalies": [artifact]}, properties)
    return artifact


def test_the_output_of_example_gen_passes(tmp_path: Path) -> None:
    records = {split: [record(first + i, label="うあ".encode()) for i in range(3)] for split, first in zip(SPLITS, (0, 3, 6), strict=True)}
    make_span(tmp_path / "data", records, spec=RANGE)
    outcome = run(Outcome(tmp_path), tmp_path / "data", spec=RANGE)
    schema = schema_artifact(tmp_path / "schema", RANGE)
    stats = statistics(tmp_path / "statistics", outcome, schema)
    anomalies = gate(tmp_path / "anomalies", stats, schema)
    assert artifact_utils.decode_split_names(anomalies.split_names) == list(SPLITS)
    for split in SPLITS:
        path = Path(artifact_utils.get_split_uri([anomalies], split), "SchemaDiff.pb")
        assert not anomalies_pb2.Anomalies.FromString(path.read_bytes()).anomaly_info

    # The same examples against another configuration.
    other = CaptchaSpec(charset="XYZ", length=6)
    with pytest.raises(CaptchaPipelineError) as caught:
        gate(tmp_path / "again", stats, schema_artifact(tmp_path / "other", other))
    message = str(caught.value)
    lines = [line for line in message.splitlines() if line.startswith("  characters: ")]
    assert len(lines) == 1
    assert "あ" in lines[0]
    assert lines[0].endswith("(train, eval, test)")
    assert stats.uri in message


def test_the_schema_file(tmp_path: Path) -> None:
    schema_artifact(tmp_path, RANGE)
    schema = text_format.Parse((tmp_path / "schema.pbtxt").read_text(), schema_pb2.Schema())
    assert schema == captcha_schema(RANGE)
    (characters,) = [feature for feature in schema.feature if feature.name == "characters"]
    assert list(characters.string_domain.value) == ["あ", "い", "う"]
    assert (characters.value_count.min, characters.value_count.max) == (2, 3)


def good_values() -> dict[str, list[bytes] | list[int] | list[float]]:
    return {
        "image": [b"\x89PNG"],
        "label": [b"ABCD"],
        "source": [b"test"],
        "params": [b"{}"],
        "characters": [b"A", b"B", b"C", b"D"],
        "width": [24],
        "height": [12],
        "brightness": [1.5],
        "contrast": [2.5],
        "sharpness": [3.5],
        "difficulty": [b"low contrast"],
        "span": [b"span-000001"],
    }


def anomalies_of(path: Path, changed: Mapping[str, list]) -> dict[str, str]:
    example = tf.train.Example()
    for name, values in {**good_values(), **changed}.items():
        feature = example.features.feature[name]
        if values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif values and isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        elif values:
            feature.float_list.value.extend(values)
        else:
            del example.features.feature[name]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(3):
            writer.write(example.SerializeToString())
    schema = captcha_schema(SPEC)
    options = tfdv.StatsOptions(schema=schema)
    stats = tfdv.generate_statistics_from_tfrecord(str(path), stats_options=options)
    return {name: info.short_description for name, info in tfdv.validate_statistics(stats, schema).anomaly_info.items()}


def test_good_values_have_no_anomaly(tmp_path: Path) -> None:
    assert anomalies_of(tmp_path / "f", {}) == {}


def test_every_feature_is_checked_against_the_schema(tmp_path: Path) -> None:
    wrong: dict[str, list] = {
        "image": [],
        "label": [],
        "source": [b"a", b"b"],
        "params": [7],
        "characters": [b"A", b"B", b"C"],
        "width": [0],
        "height": [1.5],
        "brightness": [256.0],
        "contrast": [float("nan")],
        "sharpness": [-1.0],
        "difficulty": [b"impossible"],
        "span": [],
        "further": [b"x"],
    }
    assert set(anomalies_of(tmp_path / "f", wrong)) == set(wrong)


def test_the_gate_uses_its_own_executor() -> None:
    assert SchemaGate.EXECUTOR_SPEC.executor_class is GateExecutor
