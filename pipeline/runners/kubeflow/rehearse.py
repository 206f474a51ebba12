"""Runs a compiled pipeline on this machine as Kubeflow Pipelines would: each step is a process with the launcher's inputs and outputs.

A step gets nothing that is not in the compiled YAML. For each step, in the order of the graph, the rehearsal

1. copies the inputs from a folder that represents object storage to a folder that represents the pod;
2. runs the step's command there with its ExecutorInput;
3. parses the output file as strictly as the launcher;
4. copies the outputs back.

The mount path of a volume must be a folder of this machine, which is used directly.

This follows backend/src/v2/driver and component/launcher_v2.go of Kubeflow Pipelines 2.17.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.base.errors import CaptchaPipelineError
from components.base.files import pattern_characters, write_whole
from pipeline.runners.kubeflow.compiled import Compiled
from pipeline.runners.kubeflow.entrypoint import EXECUTOR_LOGS, artifacts_of

_WHOLE_INPUT: Final = "{{$}}"
# The supported fields of a task. The retry policy applies only on the cluster.
_KNOWN: Final = {"cachingOptions", "componentRef", "dependentTasks", "inputs", "retryPolicy", "taskInfo"}
_LAST_LINES: Final = 5


@dataclasses.dataclass(frozen=True)
class StepOutcome:
    """The outcome of a step. `seconds` is the time of its process, 0 if it was not run."""

    name: str
    state: Literal["succeeded", "cached", "kept", "failed", "not run"]
    seconds: float
    message: str = ""


class Rehearsal:
    """A rehearsal of a pipeline in a folder that represents the cluster: `store` is object storage, `runs` has the driver's records."""

    def __init__(self, pipeline: Path, folder: Path, parameters: Mapping[str, Any]):
        """
        Args:
          pipeline: the compiled YAML.
          folder: the folder of the rehearsal; created if missing. A later rehearsal in it caches steps as Kubeflow would, and resumes a
            failed run where it stopped, as Kubeflow's "retry" does.
          parameters: the parameters of the run; the others have the pipeline's defaults.

        Raises:
          CaptchaPipelineError: the file does not exist or is not a compiled pipeline, a parameter or a volume's folder does not exist,
            the folder's path has characters of a pattern, or a step has a feature that `kubeflow compile` never writes, such as a
            condition.
        """
        self._compiled = Compiled.load(pipeline)
        for name in self._compiled.tasks:
            if stranger := self._stranger(name):
                raise CaptchaPipelineError(
                    f"{pipeline}: the step {name} has {stranger}, which a rehearsal does not support. Compile the pipeline again."
                )
        self._folder = folder.resolve()
        if found := pattern_characters(self._folder):
            raise CaptchaPipelineError(f"{self._folder} contains {' '.join(found)}, which TFX reads as a pattern. Choose another --folder.")
        self._parameters = self._compiled.parameters(parameters)
        for executor in self._compiled.executors.values():
            for mount in executor.get("pvcMount", []):
                if not Path(mount["mountPath"]).is_dir():
                    raise CaptchaPipelineError(
                        f"The volume {mount['constant']} is mounted at {mount['mountPath']}, which is not a folder of this machine. "
                        "Create it, or create a link with that path to the folder of the volume."
                    )
        self._digest = _digest([self._compiled.spec, self._compiled.executors, self._parameters])
        self._run_id = self._unfinished() or str(uuid.uuid4())
        self._outputs: dict[str, dict[str, Any]] = {}

    def run(self) -> Iterator[StepOutcome]:
        """Runs the steps, and yields the outcome of each. After a failed step, no further step is run."""
        write_whole(self._run_folder / "digest.txt", self._digest)
        failed = False
        for name in self._compiled.order():
            outcome = StepOutcome(name, "not run", 0.0) if failed else self._step(name)
            failed = failed or outcome.state == "failed"
            yield outcome
        if not failed:
            write_whole(self._run_folder / "finished", "")

    def artifact(self, task: str, output: str) -> Path:
        """Returns the stored folder of an output of a step that has succeeded."""
        return self._stored(self._outputs[task][output]["uri"])

    def _stranger(self, name: str) -> str:
        """Returns the features of a step that Kubeflow would act on but a rehearsal does not support; "" if there are none."""
        task, component = self._compiled.tasks[name], self._compiled.component(name)
        if unknown := task.keys() - _KNOWN:
            return ", ".join(sorted(unknown))
        if "executorLabel" not in component or "container" not in self._compiled.executor(name):
            return "no container"
        container = self._compiled.container(name)
        constants = [source.get("runtimeValue", {}).get("constant") for source in task.get("inputs", {}).get("parameters", {}).values()]
        words = {word for word in [*container["command"], *container.get("args", []), *constants] if isinstance(word, str)}
        return ", ".join(sorted(word for word in words - {_WHOLE_INPUT} if "{{$" in word))

    @property
    def _run_folder(self) -> Path:
        return self._folder / "runs" / self._run_id

    def _unfinished(self) -> str | None:
        """Returns the ID of the newest run of this pipeline with these parameters if it has not finished; otherwise None."""
        runs = sorted((self._folder / "runs").glob("*/digest.txt"), key=os.path.getmtime, reverse=True)
        ours = next((run for run in runs if run.read_text(encoding="utf-8") == self._digest), None)
        return ours.parent.name if ours and not ours.with_name("finished").exists() else None

    def _step(self, name: str) -> StepOutcome:
        kept = self._run_folder / f"{name}.json"
        if kept.exists():
            self._outputs[name] = json.loads(kept.read_text(encoding="utf-8"))
            return StepOutcome(name, "kept", 0.0)
        executor_input = self._executor_input(name)
        cached = self._folder / "cache" / f"{self._cache_key(name, executor_input)}.json"
        if self._compiled.tasks[name].get("cachingOptions", {}).get("enableCache") and cached.exists():
            self._outputs[name] = json.loads(cached.read_text(encoding="utf-8"))
            write_whole(kept, json.dumps(self._outputs[name]))
            return StepOutcome(name, "cached", 0.0)
        started = time.monotonic()
        problem = self._launch(name, executor_input)
        seconds = time.monotonic() - started
        if problem:
            return StepOutcome(name, "failed", seconds, problem)
        text = json.dumps(self._outputs[name])
        write_whole(cached, text)
        write_whole(kept, text)
        return StepOutcome(name, "succeeded", seconds)

    def _executor_input(self, name: str) -> dict[str, Any]:
        pod, sources = self._pod(name), self._compiled.tasks[name].get("inputs", {})
        inputs: dict[str, Any] = {"parameterValues": {key: self._parameter(value) for key, value in sources.get("parameters", {}).items()}}
        for key, source in sources.get("artifacts", {}).items():
            producer = source["taskOutputArtifact"]
            artifact = self._outputs[producer["producerTask"]][producer["outputArtifactKey"]]
            inputs.setdefault("artifacts", {})[key] = {"artifacts": [_in_pod(artifact, pod)]}
        root = f"{self._compiled.spec['defaultPipelineRoot']}/{self._compiled.name}/{self._run_id}/{name}/{uuid.uuid4()}"
        definitions = self._compiled.component(name).get("outputDefinitions", {}).get("artifacts", {})
        outputs = {
            key: {"name": key, "uri": f"{root}/{key}", "type": definition["artifactType"]} for key, definition in definitions.items()
        }
        # The number at the end is the number of the attempt.
        outputs[EXECUTOR_LOGS] = {"name": EXECUTOR_LOGS, "uri": f"{root}/{EXECUTOR_LOGS}-0", "type": {"schemaTitle": "system.Artifact"}}
        return {
            "inputs": inputs,
            "outputs": {
                "artifacts": {key: {"artifacts": [_in_pod(artifact, pod)]} for key, artifact in outputs.items()},
                "outputFile": f"{_mirror(root, pod)}/output_metadata.json",
            },
        }

    def _parameter(self, source: dict[str, Any]) -> Any:
        if "componentInputParameter" in source:
            return self._parameters[source["componentInputParameter"]]
        return source["runtimeValue"]["constant"]

    def _pod(self, name: str) -> Path:
        return self._run_folder / "pods" / name

    def _stored(self, uri: str) -> Path:
        return self._folder / "store" / uri.replace("://", "/")

    def _cache_key(self, name: str, executor_input: dict[str, Any]) -> str:
        """Returns a key of the same data as backend/src/v2/cacheutils: input names, parameters, output types, image, command, volumes."""
        container = self._compiled.container(name)
        executor = self._compiled.executors.get(self._compiled.component(name)["executorLabel"], {})
        return _digest(
            [
                {key: [it["name"] for it in them["artifacts"]] for key, them in executor_input["inputs"].get("artifacts", {}).items()},
                executor_input["inputs"]["parameterValues"],
                self._compiled.component(name).get("outputDefinitions", {}).get("artifacts", {}),
                [container["image"], container["command"], container["args"]],
                [mount["constant"] for mount in executor.get("pvcMount", [])],
            ]
        )

    def _launch(self, name: str, executor_input: dict[str, Any]) -> str:
        """Runs a step as the launcher would; returns why the step failed, or ""."""
        pod = self._pod(name)
        shutil.rmtree(pod, ignore_errors=True)
        pod.mkdir(parents=True)
        for artifact in artifacts_of(executor_input["inputs"]):
            if (stored := self._stored(artifact["uri"])).exists():
                shutil.copytree(stored, artifact["customPath"])
        for artifact in artifacts_of(executor_input["outputs"]):
            Path(artifact["customPath"]).parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._run_folder / f"{name}.input.json", json.dumps(executor_input, indent=1))
        container = self._compiled.container(name)
        whole = json.dumps(executor_input)
        words = [word.replace(_WHOLE_INPUT, whole) for word in [*container["command"], *container["args"]]]
        (logs,) = executor_input["outputs"]["artifacts"][EXECUTOR_LOGS]["artifacts"]
        log = Path(logs["customPath"])
        with log.open("w", encoding="utf-8") as file:
            # The step's own command, as the cluster would run it, with this environment's Python for the image's `python`.
            words[0] = sys.executable if words[0] == "python" else words[0]
            status = subprocess.run(  # noqa: S603
                words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            ).returncode
        if status:
            last = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()][-_LAST_LINES:]
            return "\n".join([f"{name} ended with exit code {status}. The full log is {log}.", *last])
        try:
            output = pipeline_spec_pb2.ExecutorOutput()
            json_format.Parse(Path(executor_input["outputs"]["outputFile"]).read_text(encoding="utf-8"), output)
        except (OSError, json_format.ParseError) as error:
            return f"{name} wrote no output file that the launcher could read: {error}"
        found = json_format.MessageToDict(output).get("artifacts", {})
        self._outputs[name] = {}
        for key, artifacts in executor_input["outputs"]["artifacts"].items():
            (artifact,) = artifacts["artifacts"]
            stored = self._stored(artifact["uri"])
            if key == EXECUTOR_LOGS:
                shutil.copyfile(log, stored)
                continue
            shutil.copytree(artifact["customPath"], stored)
            (said,) = found.get(key, {}).get("artifacts", [{}])
            # As the driver reads it from ML Metadata: an ID as the name, an empty type, and two additional properties.
            self._outputs[name][key] = {
                "name": str(uuid.uuid4().int),
                "uri": said.get("uri", artifact["uri"]),
                "type": {"instanceSchema": ""},
                "metadata": said.get("metadata", {}) | {"display_name": key, "store_session_info": "{}"},
            }
        shutil.rmtree(pod)
        return ""


def _in_pod(artifact: dict[str, Any], pod: Path) -> dict[str, Any]:
    return artifact | {"customPath": _mirror(artifact["uri"], pod)}


def _mirror(uri: str, pod: Path) -> str:
    """Returns the folder that represents the launcher's folder /s3/bucket/… in the pod."""
    return str(pod / uri.replace("://", "/"))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
