"""The program of a step's pod: `python -m pipeline.runners.kubeflow.entrypoint STEP DIGEST --executor_class_path …`, by compile.py.

It refuses an image with other code than the pipeline was compiled from, and a pod whose GPUs TensorFlow cannot use.

Kubeflow's launcher copies the artifacts of a step from object storage into folders of the pod, starts this program, and copies the
folders of the outputs back. TFX's executors open URIs themselves, but do not support minio://. This program gives them the folders.
"""

import json
import os
import platform
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

from components.base.errors import CaptchaPipelineError
from components.base.recipe import step_digest

# As in the launcher: `LocalPathForURI` in backend/src/v2/component/launcher_v2.go of Kubeflow Pipelines.
_MIRRORS: Final = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}
# An output that no component declares: the launcher copies the printed text of a step into this file, unless the cluster forbids it.
EXECUTOR_LOGS: Final = "executor-logs"
GPUS: Final = "CAPTCHA_PIPELINE_GPUS"  # environment variable: the number of GPUs that the pod requests
_INPUT_OPTION: Final = "--json_serialized_invocation_args"
_TYPES_OPTION: Final = "--json_serialized_inputs_spec_args"


def main(arguments: list[str]) -> int:
    """Runs a step and returns the exit code.

    Args:
      arguments: the step's name, the hash of its code from `step_digest`, then the arguments of TFX's executor entrypoint.
    """
    step, digest, *rest = arguments
    try:
        _check_code(step, digest)
        _run(rest)
    except CaptchaPipelineError as error:
        print(f"{step} failed: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        traceback.print_exc()
        print(f"{step} failed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _check_code(step: str, digest: str) -> None:
    if (found := step_digest(step)) != digest:
        raise CaptchaPipelineError(
            f"This image has other code for the step ({found}, Python {platform.python_version()}) than the pipeline was compiled from "
            f"({digest}). Compile the pipeline with this image, or build the image from the checkout that compiled the pipeline."
        )


def _check_gpus() -> None:
    import tensorflow as tf

    wanted, found = int(os.environ.get(GPUS, "0")), len(tf.config.list_physical_devices("GPU"))
    if found < wanted:
        raise CaptchaPipelineError(
            f"The pod requests {wanted} GPU{'s' * (wanted != 1)}, but TensorFlow finds {found}. Build the image with EXTRA=gpu, and check "
            "the driver of the node and the pod's key `gpu` in the section kubeflow."
        )


def local_path(artifact: dict[str, Any]) -> str:
    """Returns the folder of an artifact in the pod.

    Args:
      artifact: a RuntimeArtifact of an ExecutorInput, as JSON.

    Raises:
      CaptchaPipelineError: the launcher does not copy this kind of URI.
    """
    uri: str = artifact["uri"]
    if custom := artifact.get("customPath"):
        return str(custom)
    for scheme, folder in _MIRRORS.items():
        if uri.startswith(scheme):
            return folder + uri.removeprefix(scheme)
    raise CaptchaPipelineError(f"The artifact {uri} is not in object storage: kubeflow.root must begin with {', '.join(_MIRRORS)}.")


def _run(arguments: list[str]) -> None:
    position = arguments.index(_INPUT_OPTION) + 1
    executor_input = json.loads(arguments[position])
    types = json.loads(arguments[arguments.index(_TYPES_OPTION) + 1]).get("artifacts", {})
    executor_input["outputs"]["artifacts"].pop(EXECUTOR_LOGS, None)
    for key, artifacts in executor_input["inputs"].get("artifacts", {}).items():
        for artifact in artifacts["artifacts"]:
            # The driver leaves the types of inputs empty, but TFX needs them.
            artifact |= {"uri": local_path(artifact), "type": types[key]["artifactType"]}
    uris: dict[str, str] = {}
    for artifact in artifacts_of(executor_input["outputs"]):
        path = local_path(artifact)
        uris[path] = artifact["uri"]
        artifact["uri"] = path
        os.makedirs(path, exist_ok=True)  # a step may write no output, but the launcher copies the folder in any case
    _execute([*arguments[:position], json.dumps(executor_input), *arguments[position + 1 :]])

    output_file = executor_input["outputs"]["outputFile"]
    with open(output_file, encoding="utf-8") as file:
        output = json.load(file)
    for artifact in artifacts_of(output):
        artifact["uri"] = uris[artifact["uri"]]
    with open(output_file, "w", encoding="utf-8") as file:
        json.dump(output, file)


def artifacts_of(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the artifacts of the inputs or outputs of an ExecutorInput, or of an ExecutorOutput, as JSON."""
    for artifacts in message.get("artifacts", {}).values():
        yield from artifacts["artifacts"]


def _execute(arguments: list[str]) -> None:
    """Runs TFX's own entrypoint, which writes the output file."""
    from pipeline.logs import load_tensorflow

    load_tensorflow()
    _check_gpus()
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    kubeflow_v2_run_executor.main(kubeflow_v2_run_executor._parse_flags(["entrypoint", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
