"""Compiles the graph for open-source Kubeflow Pipelines v2: a pipeline spec, and additional settings for Kubernetes.

TFX's compiler is for Vertex. This module adds what its spec lacks: default values of parameters, caching, retries and resources. The
graph has no `Resolver` nodes and no drivers in pods (`lifecycle`), because open-source Kubeflow Pipelines refuses both.
"""

import math
import tempfile
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.v2.kubeflow_v2_dag_runner import KubeflowV2DagRunner, KubeflowV2DagRunnerConfig

from components.base.errors import CaptchaPipelineError
from components.base.recipe import code_digests, step_digest
from components.example_gen import Quarantine
from pipeline.config.config import Config, PodConfig
from pipeline.config.engines import LOCAL, EngineStep
from pipeline.graph import RunParameters, create_pipeline
from pipeline.runners.kubeflow.entrypoint import GPUS
from pipeline.runs.inputs import RunInputs

COMMAND: Final = ("python", "-m", "pipeline.runners.kubeflow.entrypoint")
# These steps read folders that the cache key does not cover.
_NEVER_CACHED: Final = ("CaptchaExampleGen", "LatestPushedModel", "AtomicPusher")
# Argo counts backoffMaxDuration from the first start of a step: after it, Argo starts no retry, and stops one that runs. Without a value
# Kubeflow sends 0. So 30 days, longer than any step.
_BACKOFF: Final = {"backoffDuration": "30s", "backoffFactor": 2.0, "backoffMaxDuration": "2592000s"}


def compile_pipeline(config: Config) -> str:
    """Returns the YAML: the PipelineSpec of schema 2.1.0 and its PlatformSpec for Kubernetes as a second document.

    The same configuration, code and libraries give the same text.

    Raises:
      CaptchaPipelineError: `kubeflow.image` or `kubeflow.root` is not set, data or output would be written to a pod's own folder, or a
        step is set to run on another engine.
    """
    _check(config)
    inputs = RunInputs(spans="", production="", attempt=0, digests=code_digests(), recipe="")
    defaults = vars(RunParameters.of(config))
    spec = _tfx_spec(config, inputs, defaults)
    quarantine = spec["components"]["CaptchaExampleGen"]["outputDefinitions"]["artifacts"]["quarantine"]["artifactType"]
    # TFX's entrypoint imports the type from this path; TFX's compiler does not accept a path that long.
    quarantine["instanceSchema"] = quarantine["instanceSchema"].replace(
        Quarantine.TYPE_NAME, f"{Quarantine.__module__}.{Quarantine.__name__}"
    )
    spec["defaultPipelineRoot"] = config.kubeflow.root
    for name, definition in spec["root"]["inputDefinitions"]["parameters"].items():
        definition |= {"defaultValue": defaults[name], "isOptional": True}
    for name, task in spec["root"]["dag"]["tasks"].items():
        if name in _NEVER_CACHED:
            task["cachingOptions"] = {}
        if config.kubeflow.retries:
            task["retryPolicy"] = {"maxRetryCount": config.kubeflow.retries} | _BACKOFF
    for label, executor in spec["deploymentSpec"]["executors"].items():
        step, pod = label.removesuffix("_executor"), _pod(config, label)
        executor["container"]["command"] += [step, step_digest(step)]
        if resources := _resources(pod):
            executor["container"]["resources"] = resources
        if environment := _environment(pod):
            executor["container"]["env"] = [{"name": name, "value": value} for name, value in environment.items()]
    executors = {label: _platform(config, _pod(config, label)) for label in sorted(spec["deploymentSpec"]["executors"])}
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {label: it for label, it in executors.items() if it}}}}}
    documents = [spec, platform] if any(executors.values()) else [spec]
    return yaml.safe_dump_all(documents, sort_keys=True)


def _check(config: Config) -> None:
    for key, option in (("image", "--image"), ("root", "--root")):
        if not getattr(config.kubeflow, key):
            raise CaptchaPipelineError(f"kubeflow.{key} is not set. Give {option} or --set kubeflow.{key}=VALUE.")
    mounts = [Path(mount) for mount in config.kubeflow.volumes]
    for key, path in (("data.root", config.data.root), ("root", config.root), ("pusher.serving_dir", config.serving_dir)):
        if not any(Path(path).is_relative_to(mount) for mount in mounts):
            raise CaptchaPipelineError(
                f"{key} is {path}, which is in no volume of kubeflow.volumes ({', '.join(config.kubeflow.volumes) or 'it is empty'}). "
                f"It would be lost with the pod. Set it to a path in a volume, such as --set {key}=/mnt/captcha/FOLDER, "
                "and name the volume's claim, such as --set kubeflow.volumes='{/mnt/captcha: captcha}'."
            )
    for step in get_args(EngineStep):
        if (engine := config.beam.of(step)).runner != LOCAL and step != "synth":
            raise CaptchaPipelineError(
                f"{step} is set to run on {engine}. On Kubeflow Pipelines, the artifacts are in the pod of a step while it runs, where "
                "the workers of another engine cannot read them. Run the whole pipeline in one pod instead; "
                "see docs/how-to/beam-engines.md."
            )


def _tfx_spec(config: Config, inputs: RunInputs, defaults: dict[str, Any]) -> dict[str, Any]:
    parameters = RunParameters(**{name: RuntimeParameter(name=name, ptype=type(value)) for name, value in defaults.items()})
    graph = create_pipeline(config, inputs, parameters)
    runner_config = KubeflowV2DagRunnerConfig(
        default_image=config.kubeflow.image, default_commands=list(COMMAND), use_pipeline_spec_2_1=True
    )
    with tempfile.TemporaryDirectory() as folder:
        KubeflowV2DagRunner(runner_config, output_dir=folder, output_filename="pipeline.yaml").run(graph, write_out=True)
        spec: dict[str, Any] = yaml.safe_load(Path(folder, "pipeline.yaml").read_text(encoding="utf-8"))
    return spec


def _pod(config: Config, executor_label: str) -> PodConfig:
    return config.kubeflow.trainer if executor_label == "Trainer_executor" else config.kubeflow.steps


def _resources(pod: PodConfig) -> dict[str, Any]:
    """Returns requests that equal the limits: Kubernetes evicts a pod last if it uses no more than it requested."""
    resources: dict[str, Any] = {}
    if pod.cpu:
        resources |= {"cpuRequest": pod.cpu, "cpuLimit": pod.cpu}
    if pod.memory:
        resources |= {"memoryRequest": pod.memory, "memoryLimit": pod.memory}
    if pod.gpus:
        resources["accelerator"] = {"type": pod.gpu, "count": str(pod.gpus)}
    return resources


def _environment(pod: PodConfig) -> dict[str, str]:
    """Returns environment variables. TensorFlow counts the cores of the node, not those of the pod: more threads would be throttled."""
    threads = {name: str(math.ceil(pod.cpu)) for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")} if pod.cpu else {}
    return threads | ({GPUS: str(pod.gpus)} if pod.gpus else {})


def _platform(config: Config, pod: PodConfig) -> dict[str, Any]:
    """Returns the KubernetesExecutorConfig of a step, in the JSON form of its protocol buffer."""
    platform: dict[str, Any] = {
        "pvcMount": [{"constant": claim, "mountPath": path} for path, claim in sorted(config.kubeflow.volumes.items())],
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in pod.tolerations],
        "imagePullSecret": [{"secretName": name} for name in config.kubeflow.image_pull_secrets],
        "imagePullPolicy": config.kubeflow.image_pull_policy,
        # Kubeflow adds the rest of the standard "restricted".
        "securityContext": {"runAsUser": config.kubeflow.user, "runAsGroup": config.kubeflow.user, "runAsNonRoot": True},
    }
    if pod.shared_memory:
        size = f"{round(1000 * pod.shared_memory)}M"
        shared = {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": size}  # noqa: S108  # in the pod
        platform["emptyDirMounts"] = [shared]
    if pod.node_selector:
        platform["nodeSelector"] = {"labels": pod.node_selector}
    return {key: value for key, value in platform.items() if value}
