"""A compiled pipeline, as written by pipeline/runners/kubeflow/compile.py."""

import dataclasses
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from components.base.errors import CaptchaPipelineError


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The two documents of a compiled pipeline.

    Attributes:
      spec: the PipelineSpec.
      executors: the settings of each step for Kubernetes, by the label of its executor.
    """

    spec: dict[str, Any]
    executors: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Compiled":
        """Reads the YAML.

        Raises:
          CaptchaPipelineError: the file does not exist, or is not a compiled pipeline.
        """
        try:
            documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
        except (OSError, yaml.YAMLError) as error:
            raise CaptchaPipelineError(f"Cannot read the pipeline {path}: {error}") from None
        spec = next((document for document in documents if "pipelineInfo" in document), None)
        if spec is None:
            raise CaptchaPipelineError(f"{path} contains no pipeline. Write one with `captcha-pipeline kubeflow compile`.")
        platform: dict[str, Any] = next((document for document in documents if "platforms" in document), {})
        executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        return cls(spec, executors)

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        name: str = self.spec["pipelineInfo"]["name"]
        return name

    @property
    def root(self) -> str:
        """The URL under which a run stores its artifacts. The API server ignores it: whoever starts a run must give it."""
        root: str = self.spec["defaultPipelineRoot"]
        return root

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks of the graph, by name."""
        tasks: dict[str, Any] = self.spec["root"]["dag"]["tasks"]
        return tasks

    def order(self) -> list[str]:
        """Returns the names of the tasks, each after the tasks that it depends on."""
        return list(TopologicalSorter({name: task.get("dependentTasks", []) for name, task in sorted(self.tasks.items())}).static_order())

    def component(self, task: str) -> dict[str, Any]:
        """Returns the component of a task."""
        component: dict[str, Any] = self.spec["components"][self.tasks[task]["componentRef"]["name"]]
        return component

    def executor(self, task: str) -> dict[str, Any]:
        """Returns the executor of a task in the PipelineSpec."""
        executor: dict[str, Any] = self.spec["deploymentSpec"]["executors"][self.component(task)["executorLabel"]]
        return executor

    def container(self, task: str) -> dict[str, Any]:
        """Returns the container of a task: image, command and arguments."""
        container: dict[str, Any] = self.executor(task)["container"]
        return container

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parameters of a run: the given values, and the defaults of the others.

        Raises:
          CaptchaPipelineError: a given parameter does not exist, or a parameter without a default is not given.
        """
        definitions = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        if unknown := sorted(given.keys() - definitions.keys()):
            raise CaptchaPipelineError(f"The pipeline has no parameter {unknown[0]}; it has {', '.join(sorted(definitions))}.")
        values = {name: given.get(name, definition.get("defaultValue")) for name, definition in definitions.items()}
        if missing := sorted(name for name, value in values.items() if value is None):
            raise CaptchaPipelineError(f"The parameter {missing[0]} has no default. Give a value for it.")
        return values
