"""The compiled pipeline, checked by the API server code of Kubeflow Pipelines: `make test-kfp` builds it and runs these tests."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration import pipeline
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from benchmarks.kill_each_step import STEPS
from pipeline.runners.kubeflow.compile import compile_pipeline
from tests.support.kubeflow import ACCEPTANCE, GPU, config

pytestmark = pytest.mark.skipif(not ACCEPTANCE, reason="KFP_ACCEPTANCE is not set: run make test-kfp")


def accept(folder: Path, text: str, parameters: dict[str, Any] | None = None, root: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "pipeline.yaml").write_text(text)
    (folder / "runtime.json").write_text(json.dumps({"parameters": parameters or {}, "pipeline_root": root}))
    command = [str(ACCEPTANCE), "compile", str(folder / "pipeline.yaml"), str(folder / "runtime.json")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def entrypoint(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Returns the tasks of a workflow's first template."""
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)["spec"]
    tasks: list[dict[str, Any]]
    (tasks,) = (template["dag"]["tasks"] for template in spec["templates"] if template["name"] == spec["entrypoint"])
    return tasks


def test_the_pipeline_becomes_a_workflow(tmp_path: Path) -> None:
    done = accept(tmp_path, compile_pipeline(config(GPU)), {"epochs": 3, "window": 2})
    assert done.returncode == 0, done.stderr
    workflow = json.loads(done.stdout)
    assert workflow["kind"] == "Workflow"
    root = next(template for template in workflow["spec"]["templates"] if template["name"] == "root")
    steps = {task["name"].removesuffix("-driver") for task in root["dag"]["tasks"] if task["name"].endswith("-driver")}
    assert steps == set(STEPS)
    texts = {parameter["name"]: parameter["value"] for parameter in workflow["spec"]["arguments"]["parameters"]}
    assert any("nvidia.com/gpu" in text for text in texts.values())
    assert any("/mnt/captcha" in text for name, text in texts.items() if name.startswith("kubernetes"))


@pytest.mark.parametrize("root", ["", "s3://bucket/given"])
def test_only_the_request_says_where_artifacts_go(tmp_path: Path, root: str) -> None:
    """So `submit` and `schedule create` must give it, see test_kubeflow_client.py: the server ignores that of the pipeline."""
    text = compile_pipeline(config())
    assert "defaultPipelineRoot: s3://bucket/captcha" in text
    (driver,) = (task for task in entrypoint(accept(tmp_path, text, root=root)) if task["name"] == "root-driver")
    (given,) = (it["value"] for it in driver["arguments"]["parameters"] if it["name"] == "runtime-config")
    assert json.loads(given).get("gcsOutputDirectory", "") == root


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    done = accept(tmp_path, compile_pipeline(config()), {"epoch": 3})
    assert done.returncode == 1
    assert "epoch" in done.stderr


def test_the_previous_schema_version_is_refused(tmp_path: Path) -> None:
    done = accept(tmp_path, compile_pipeline(config()).replace("schemaVersion: 2.1.0", "schemaVersion: 2.0.0"))
    assert done.returncode == 1
    assert "KFP only supports schema version 2.1.0, but the pipeline spec has version 2.0.0" in done.stderr


def test_a_resolver_is_refused(tmp_path: Path) -> None:
    resolver = Resolver(strategy_class=LatestArtifactStrategy, model=Channel(type=standard_artifacts.Model))
    graph = pipeline.Pipeline(pipeline_name="resolver", pipeline_root="s3://bucket/root", components=[resolver])
    runner = KubeflowV2DagRunnerConfig(default_image="image:1", use_pipeline_spec_2_1=True)
    KubeflowV2DagRunner(runner, output_dir=str(tmp_path), output_filename="resolver.yaml").run(graph, write_out=True)
    text = (tmp_path / "resolver.yaml").read_text()
    (executor,) = yaml.safe_load(text)["deploymentSpec"]["executors"].values()
    assert set(executor) == {"resolver"}
    done = accept(tmp_path, text)
    assert done.returncode == 1
    assert 'executor(label="Resolver_executor"): non-container and non-importer executor not implemented' in done.stderr
