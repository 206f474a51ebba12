"""A compiled pipeline, as pipeline/runners/kubeflow/compile.py writes it."""

import dataclasses
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from components.base.errors import CaptchaPipelineError


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The two documents of a compiled pipeline."""

    spec: dict[str, Any]
    executors: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "Compiled":
        """Reads the YAML.

        Raises:
          CaptchaPipelineError: there is no such file, or it is no compiled pipeline.
        """
        try:
            documents = [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]
        except (OSError, yaml.YAMLError) as error:
            raise CaptchaPipelineError(f"Cannot read the pipeline {path}: {error}") from None
        spec = next((document for document in documents if "pipelineInfo" in document), None)
        if spec is None:
            raise CaptchaPipelineError(f"{path} holds no pipeline: write one with captcha-pipeline kubeflow compile.")
        platform: dict[str, Any] = next((document for document in documents if "platforms" in document), {})
        executors = platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        return cls(spec, executors)

    @property
    def name(self) -> str:
        name: str = self.spec["pipelineInfo"]["name"]
        return name

    @property
    def tasks(self) -> dict[str, Any]:
        tasks: dict[str, Any] = self.spec["root"]["dag"]["tasks"]
        return tasks

    def order(self) -> list[str]:
        return list(TopologicalSorter({name: task.get("dependentTasks", []) for name, task in sorted(self.tasks.items())}).static_order())

    def component(self, task: str) -> dict[str, Any]:
        component: dict[str, Any] = self.spec["components"][self.tasks[task]["componentRef"]["name"]]
        return component

    def executor(self, task: str) -> dict[str, Any]:
        executor: dict[str, Any] = self.spec["deploymentSpec"]["executors"][self.component(task)["executorLabel"]]
        return executor

    def container(self, task: str) -> dict[str, Any]:
        container: dict[str, Any] = self.executor(task)["container"]
        return container

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a run: those given, and the defaults of the others."""
        definitions = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        if unknown := sorted(given.keys() - definitions.keys()):
            raise CaptchaPipelineError(f"The pipeline has no parameter {unknown[0]}; it has {', '.join(sorted(definitions))}.")
        values = {name: given.get(name, definition.get("defaultValue")) for name, definition in definitions.items()}
        if missing := sorted(name for name, value in values.items() if value is None):
            raise CaptchaPipelineError(f"The parameter {missing[0]} has no default, and no value was given.")
        return values
