"""The pipeline compiled for Kubeflow, checked with Kubeflow's own schema and SDK."""

from pathlib import Path
from typing import Any

import kfp.components
import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.base.errors import CaptchaPipelineError
from components.base.recipe import step_digest
from pipeline.config.loading import load_config
from pipeline.runners.kubeflow.compile import compile_pipeline
from pipeline.runners.kubeflow.entrypoint import GPUS
from tests.support.command import call
from tests.support.kubeflow import CLUSTER, GPU, VOLUME, config
from tests.support.paths import TINY


def documents(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec, platform = yaml.safe_load_all(compile_pipeline(config(*overrides)))
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_output_is_deterministic_and_has_only_supported_fields() -> None:
    text = compile_pipeline(config())
    assert compile_pipeline(config()) == text
    spec, _ = yaml.safe_load_all(text)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())  # raises for an unknown field
    assert spec["schemaVersion"] == "2.1.0"
    assert {kind for executor in spec["deploymentSpec"]["executors"].values() for kind in executor} == {"container"}
    assert all(set(executor["container"]) == {"args", "command", "image"} for executor in spec["deploymentSpec"]["executors"].values())
    assert spec["defaultPipelineRoot"] == "s3://bucket/captcha"


def test_the_shipped_configuration_compiles_as_it_is() -> None:
    spec, platform = yaml.safe_load_all(compile_pipeline(load_config(TINY.with_name("kubeflow.yaml"), [])))
    assert spec["deploymentSpec"]["executors"]["Trainer_executor"]["container"]["resources"]["accelerator"]["count"] == "1"
    assert set(platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == set(spec["deploymentSpec"]["executors"])


def test_the_kfp_sdk_loads_the_pipeline() -> None:
    component = kfp.components.load_component_from_text(compile_pipeline(config()))
    assert component.pipeline_spec.pipeline_info.name == "tiny"
    assert set(component.pipeline_spec.root.input_definitions.parameters) == {
        "window",
        "epochs",
        "min_sequence_accuracy",
        "max_regression",
    }


def test_run_parameters_reach_their_steps() -> None:
    spec, _ = documents("data.window=3", "trainer.epochs=2")
    defaults = {name: it["defaultValue"] for name, it in spec["root"]["inputDefinitions"]["parameters"].items()}
    assert defaults == {"window": 3, "epochs": 2, "min_sequence_accuracy": 0.5, "max_regression": 0.1}
    assert all(it["isOptional"] for it in spec["root"]["inputDefinitions"]["parameters"].values())
    uses = {
        (source["componentInputParameter"], step, name)
        for step, task in spec["root"]["dag"]["tasks"].items()
        for name, source in task.get("inputs", {}).get("parameters", {}).items()
        if "componentInputParameter" in source
    }
    assert uses == {
        ("window", "CaptchaExampleGen", "window"),
        ("epochs", "Trainer", "epochs"),
        ("epochs", "LatestPushedModel", "epochs"),  # part of the recipe
        ("min_sequence_accuracy", "CaptchaEvaluator", "min_sequence_accuracy"),
        ("max_regression", "CaptchaEvaluator", "max_regression"),
    }


def test_steps_that_look_at_folders_are_never_cached() -> None:
    spec, _ = documents()
    cached = {name: task["cachingOptions"].get("enableCache", False) for name, task in spec["root"]["dag"]["tasks"].items()}
    assert {name for name, is_cached in cached.items() if not is_cached} == {"CaptchaExampleGen", "LatestPushedModel", "AtomicPusher"}


def test_retries() -> None:
    spec, _ = documents("kubeflow.retries=4")
    assert {task["retryPolicy"]["maxRetryCount"] for task in spec["root"]["dag"]["tasks"].values()} == {4}
    spec, _ = documents("kubeflow.retries=0")
    assert not any("retryPolicy" in task for task in spec["root"]["dag"]["tasks"].values())


def test_a_step_may_be_retried_for_days() -> None:
    """Argo counts from the first start of a step, so the pauses alone must not fill the time."""
    spec, _ = documents()
    policies = [task["retryPolicy"] for task in spec["root"]["dag"]["tasks"].values()]
    assert policies
    for policy in policies:
        assert int(policy["backoffMaxDuration"].removesuffix("s")) >= 7 * 86400


def test_every_pod_gets_the_user_and_what_it_takes_to_pull_the_image() -> None:
    _, platform = documents()
    for step in platform.values():
        assert step["securityContext"] == {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True}
        assert not {"imagePullSecret", "imagePullPolicy", "emptyDirMounts"} & set(step)
    pulled = ("kubeflow.image_pull_policy=Always", "kubeflow.image_pull_secrets=[registry, other]", "kubeflow.user=1234")
    _, platform = documents(*pulled, "kubeflow.trainer={shared_memory: 0.5}")
    for step in platform.values():
        assert (step["imagePullPolicy"], step["imagePullSecret"]) == ("Always", [{"secretName": "registry"}, {"secretName": "other"}])
        assert step["securityContext"]["runAsUser"] == step["securityContext"]["runAsGroup"] == 1234
    shared = {name: step["emptyDirMounts"] for name, step in platform.items() if "emptyDirMounts" in step}
    assert list(shared) == ["Trainer_executor"]
    assert shared["Trainer_executor"] == [{"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "500M"}]


def test_only_the_trainer_gets_the_gpu_and_every_step_gets_the_volume() -> None:
    spec, platform = documents(GPU)
    resources = {name: it["container"].get("resources") for name, it in spec["deploymentSpec"]["executors"].items()}
    trainer = resources.pop("Trainer_executor")
    assert trainer == {
        "cpuRequest": 4.0,
        "cpuLimit": 4.0,
        "memoryRequest": 16.0,
        "memoryLimit": 16.0,
        "accelerator": {"type": "nvidia.com/gpu", "count": "1"},
    }
    assert not any(resources.values())
    assert platform.keys() == spec["deploymentSpec"]["executors"].keys()
    assert all(it["pvcMount"] == [{"constant": "captcha", "mountPath": "/mnt/captcha"}] for it in platform.values())
    assert platform["Trainer_executor"]["nodeSelector"] == {"labels": {"gpu": "h100"}}
    assert platform["Trainer_executor"]["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert not any("tolerations" in it for name, it in platform.items() if name != "Trainer_executor")


def test_threads_and_gpus_are_those_of_the_pod() -> None:
    spec, _ = documents("kubeflow.steps={cpu: 1.5}", "kubeflow.trainer={gpus: 2}")
    given = {name: it["container"]["env"] for name, it in spec["deploymentSpec"]["executors"].items()}
    assert given.pop("Trainer_executor") == [{"name": GPUS, "value": "2"}]
    threads = [{"name": f"TF_NUM_{kind}OP_THREADS", "value": "2"} for kind in ("INTRA", "INTER")]
    assert given
    assert all(environment == threads for environment in given.values())
    assert not any("env" in it["container"] for it in documents()[0]["deploymentSpec"]["executors"].values())


def test_every_step_runs_the_entrypoint_under_its_own_name() -> None:
    spec, _ = documents()
    for name, executor in spec["deploymentSpec"]["executors"].items():
        *command, step, digest = executor["container"]["command"]
        assert (command, step) == (["python", "-m", "pipeline.runners.kubeflow.entrypoint"], name.removesuffix("_executor"))
        assert digest == step_digest(step)
        assert executor["container"]["image"] == "registry/captcha:1"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*VOLUME, CLUSTER[1]), r"kubeflow\.image is not set\. Give --image"),
        ((*VOLUME, CLUSTER[0]), r"kubeflow\.root is not set\. Give --root"),
        (CLUSTER, r"data\.root is data/tiny, which is in no volume of kubeflow\.volumes \(it is empty\)"),
        ((*CLUSTER, *VOLUME, "pusher.serving_dir=/elsewhere"), r"pusher\.serving_dir is /elsewhere"),
        (
            (*CLUSTER, *VOLUME, "beam.steps={Transform: {runner: FlinkRunner, endpoint: flink:8081}}"),
            "Transform is set to run on FlinkRunner at flink:8081. On Kubeflow Pipelines",
        ),
        ((*CLUSTER, *VOLUME, "kubeflow.root=/folder"), r"kubeflow\.root: String should match pattern"),
    ],
)
def test_missing_and_unsupported_settings_are_named(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(CaptchaPipelineError, match=message):
        compile_pipeline(load_config(TINY, list(overrides)))


def test_the_compile_command(tmp_path: Path) -> None:
    output = tmp_path / "new" / "pipeline.yaml"
    changes = [word for change in VOLUME for word in ("--set", change)]
    call(
        "kubeflow",
        "compile",
        "-o",
        str(output),
        "-c",
        str(TINY),
        *changes,
        "--image",
        "registry/captcha:1",
        "--root",
        "s3://bucket/captcha",
    )
    assert output.read_text(encoding="utf-8") == compile_pipeline(config())
