"""A step, started as its pod starts it."""

import json
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from components.base.errors import CaptchaPipelineError
from components.base.recipe import step_digest
from components.data.captcha_spec import CaptchaSpec
from pipeline.runners.kubeflow.entrypoint import GPUS, local_path, main

SCHEMA = {"instanceSchema": "title: tfx.Schema\ntype: object\n"}
STRINGS = {"parameterType": "STRING"}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a/b", "/s3/bucket/a/b"),
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("minio://bucket/a/b", "/minio/bucket/a/b"),
    ],
)
def test_artifacts_are_where_the_launcher_mirrors_them(uri: str, path: str) -> None:
    assert local_path({"uri": uri}) == path
    assert local_path({"uri": uri, "customPath": "/elsewhere"}) == "/elsewhere"


def test_other_storage_is_refused() -> None:
    with pytest.raises(
        CaptchaPipelineError, match=r"hdfs://bucket/a is not in object storage: kubeflow\.root must begin with gs://, s3://"
    ):
        local_path({"uri": "hdfs://bucket/a"})


def schema_step(pod: Path, spec: str) -> list[str]:
    """Returns the command line of CaptchaSchema, whose output is mirrored in `pod`."""
    artifact = {"name": "schema", "uri": "s3://bucket/schema", "type": SCHEMA, "customPath": str(pod / "schema")}
    logs = {"name": "executor-logs", "uri": "s3://bucket/logs", "type": {"schemaTitle": "system.Artifact"}, "customPath": str(pod / "logs")}
    (pod / "logs").touch()  # the launcher writes the output of the step to this file
    executor_input: dict[str, Any] = {
        "inputs": {"parameterValues": {"spec": spec, "source_digest": "0"}},
        "outputs": {
            "artifacts": {"schema": {"artifacts": [artifact]}, "executor-logs": {"artifacts": [logs]}},
            "outputFile": str(pod / "output.json"),
        },
    }
    return [
        "CaptchaSchema",
        step_digest("CaptchaSchema"),
        "--executor_class_path",
        "components.schema_gate.CaptchaSchema_Executor",
        "--json_serialized_invocation_args",
        json.dumps(executor_input),
        "--json_serialized_inputs_spec_args",
        json.dumps({"parameters": {"spec": STRINGS, "source_digest": STRINGS}}),
    ]


def test_output_is_written_to_the_mirror_and_keeps_the_storage_uri(tmp_path: Path) -> None:
    assert main(schema_step(tmp_path, CaptchaSpec().model_dump_json())) == 0
    assert list((tmp_path / "schema").iterdir())
    artifacts = json.loads((tmp_path / "output.json").read_text(encoding="utf-8"))["artifacts"]
    assert set(artifacts) == {"schema"}
    (artifact,) = artifacts["schema"]["artifacts"]
    assert artifact["uri"] == "s3://bucket/schema"


def test_a_user_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = schema_step(tmp_path, CaptchaSpec().model_dump_json())
    position = arguments.index("--json_serialized_invocation_args") + 1
    executor_input = json.loads(arguments[position])
    executor_input["outputs"]["artifacts"]["schema"]["artifacts"][0] |= {"uri": "hdfs://bucket/schema", "customPath": ""}
    arguments[position] = json.dumps(executor_input)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("CaptchaSchema failed: The artifact hdfs://bucket/schema is not in object storage")


def test_an_image_with_other_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, digest, *rest = schema_step(tmp_path, CaptchaSpec().model_dump_json())
    assert main([step, "0123456789abcdef", *rest]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"CaptchaSchema failed: This image has other code for the step ({digest}, Python 3.")
    assert "compiled from (0123456789abcdef)" in line
    assert not (tmp_path / "schema").exists()


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="this machine has a GPU")
def test_a_gpu_that_tensorflow_cannot_use_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GPUS, "1")
    assert main(schema_step(tmp_path, CaptchaSpec().model_dump_json())) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("CaptchaSchema failed: The pod requests 1 GPU, but TensorFlow finds 0. Build the image with EXTRA=gpu")


def test_a_defect_prints_a_traceback_and_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(schema_step(tmp_path, "no JSON")) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "CaptchaSchema failed: " in error
