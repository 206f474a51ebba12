"""The runs on record in ML Metadata, with their steps and outputs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from components.base.errors import CaptchaPipelineError
from components.base.features import BASE_PROBLEM, FINGERPRINT, RECIPE
from pipeline.runs.metadata import (
    RUN_TYPE,
    artifacts_of,
    events_of,
    is_output,
    node_names,
    open_store,
    output_uris,
    pushed_version,
    run_contexts,
    spans_of,
    time_of,
    value_of,
)

# "running": neither finished nor marked. The step still runs, or it was killed and no later run has marked it yet.
State = Literal["done", "cached", "failed", "interrupted", "running"]

_INTERRUPTED: Final = "interrupted"  # the custom property that distinguishes a killed step from a failed one
_TRIGGER: Final = "trigger"  # custom property of a run's context
_ENGINES: Final = "engines"  # custom property of a run's context: JSON, by step
_CONFIGURATION: Final = "configuration"  # custom property of a run's context: YAML
_INPUTS: Final = "inputs"  # custom property of a run's context
SEARCH: Final = "a search"  # the trigger of a hyperparameter search
_UNFINISHED: Final = (pb.Execution.NEW, pb.Execution.RUNNING)
_STATES: Final[Mapping[int, State]] = {
    pb.Execution.COMPLETE: "done",
    pb.Execution.CACHED: "cached",
    pb.Execution.FAILED: "failed",
    pb.Execution.CANCELED: "failed",
}


@dataclass(frozen=True)
class StepRecord:
    """One step of one run.

    Attributes:
      node: the name of the step.
      state: the state of the step.
      seconds: the time from the step's registration to its end; None for a step that still runs or was killed, because its end is unknown.
      execution_id: the ID of its execution in ML Metadata.
      outputs: the URIs of each output, by output name; empty for an unfinished step.
      engine: the engine that the step ran on; "" for this machine and for a step that was reused.
    """

    node: str
    state: State
    seconds: float | None
    execution_id: int
    outputs: Mapping[str, tuple[str, ...]]
    engine: str = ""


@dataclass(frozen=True)
class RunRecord:
    """One run of the pipeline. components/base/recipe.py defines recipe and fingerprint.

    Attributes:
      run_id: the name of the run.
      started: the time of its start, in UTC.
      steps: its steps, in the order in which they ran.
      pushed_version: the version that its Pusher pushed, or an earlier version if the Pusher was cached; None if nothing was pushed.
      blessed: whether the model was blessed; None if no Evaluator finished.
      recipe: the recipe of the model; None if the run did not reach the step LatestPushedModel.
      fingerprint: the fingerprint of the model; None if no Trainer finished.
      spans: the numbers of the spans that ExampleGen read.
      production_fingerprint: the fingerprint of the production model that the model was compared with; None if there was none.
      trigger: why the run was started; "" if that is not on record.
      attempt: the number of earlier fits with the same data, configuration and code.
      base_problem: why the fit could not continue from the production model, or only in part; "" if there was no problem.
      configuration: the whole configuration, in YAML; "" if it is not on record, as in earlier releases.
      inputs: the digest of the run's `RunInputs`; "" if it is not on record, as in earlier releases.
    """

    run_id: str
    started: datetime
    steps: tuple[StepRecord, ...]
    pushed_version: str | None
    blessed: bool | None
    recipe: str | None
    fingerprint: str | None
    spans: tuple[int, ...]
    production_fingerprint: str | None = None
    trigger: str = ""
    attempt: int = 0
    base_problem: str = ""
    configuration: str = ""
    inputs: str = ""

    @property
    def is_search(self) -> bool:
        """Whether this is a hyperparameter search, which makes no model."""
        return self.trigger == SEARCH or any(step.node == "Tuner" for step in self.steps)

    @property
    def is_complete(self) -> bool:
        """Whether every step finished, including the Pusher, with or without a blessed model."""
        return all(step.state in ("done", "cached") for step in self.steps) and any("pushed_model" in step.outputs for step in self.steps)

    def state_of(self, node: str) -> State | None:
        """Returns the state of step `node`; None if it did not start."""
        return next((step.state for step in self.steps if step.node == node), None)

    def artifact_uri(self, node: str, key: str) -> str | None:
        """Returns the URI of output `key` of step `node`; None if the step did not run, did not finish, or has no such output."""
        uris = next((step.outputs.get(key, ()) for step in self.steps if step.node == node), ())
        return uris[0] if uris else None


def runs(metadata_path: str | Path) -> list[RunRecord]:
    """Returns all runs, oldest first; an empty list if the metadata file does not exist.

    Raises:
      CaptchaPipelineError: the file is not ML Metadata's, or another process has locked it.
    """
    store = open_store(metadata_path)
    if store is None:
        return []
    nodes = node_names(store)
    return [_run(store, context, nodes) for context in run_contexts(store)]


def latest_run(metadata_path: str | Path) -> RunRecord | None:
    """Returns the newest run; None if there is none.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = open_store(metadata_path)
    contexts = run_contexts(store) if store else []
    return _run(store, contexts[-1], node_names(store)) if store and contexts else None


def latest_complete_run(metadata_path: str | Path) -> RunRecord:
    """Returns the newest complete run.

    Raises:
      CaptchaPipelineError: no run is complete, or as `runs`.
    """
    for run in reversed(runs(metadata_path)):
        if run.is_complete:
            return run
    raise CaptchaPipelineError(f"{metadata_path} has no complete run. Start one with `captcha-pipeline run`.")


def begin(metadata_path: str | Path, run_id: str, trigger: str, engines: Mapping[str, str], configuration: str, inputs: str) -> None:
    """Records a run before TFX does, so that a run that is killed early is on record with its details. TFX reuses the record.

    Args:
      metadata_path: ML Metadata's SQLite file; created if missing.
      run_id: the name of the run.
      trigger: why it is started; SEARCH for a hyperparameter search.
      engines: the engine of each step that does not run on this machine, by step.
      configuration: the whole configuration, in YAML.
      inputs: the digest of the run's `RunInputs`.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = open_store(metadata_path, create=True)
    assert store is not None, "open_store creates it"
    context = pb.Context(type_id=store.put_context_type(pb.ContextType(name=RUN_TYPE)), name=run_id)
    properties = {_TRIGGER: trigger, _ENGINES: json.dumps(engines), _CONFIGURATION: configuration, _INPUTS: inputs}
    for name, value in properties.items():
        context.custom_properties[name].string_value = value
    store.put_contexts([context])


def mark_interrupted(metadata_path: str | Path) -> int:
    """Sets the executions that a killed process left as running to FAILED, and returns their number.

    Call it only while holding the run lock, because it cannot tell a dead process from a live one.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = open_store(metadata_path)
    left = [] if store is None else [e for e in store.get_executions() if e.last_known_state in _UNFINISHED]
    for execution in left:
        execution.last_known_state = pb.Execution.FAILED
        execution.custom_properties[_INTERRUPTED].int_value = 1
    if store and left:
        store.put_executions(left)
    return len(left)


def _run(store: metadata_store.MetadataStore, context: pb.Context, nodes: Mapping[int, str]) -> RunRecord:
    executions = sorted(store.get_executions_by_context(context.id), key=lambda execution: execution.id)
    events = events_of(store, executions)
    artifacts = artifacts_of(store, [event for event in events if is_output(event)])
    versions = [version for artifact in artifacts.values() if (version := pushed_version(artifact))]
    about = {name: value.string_value for name, value in context.custom_properties.items()}
    engines = json.loads(about.get(_ENGINES, "{}"))
    given: dict[str, Mapping[str, pb.Value]] = {nodes.get(it.id, it.type): it.custom_properties for it in executions}
    left = {
        nodes.get(event.execution_id, ""): artifacts[event.artifact_id].custom_properties
        for event in events
        if is_output(event) and event.path.steps[0].key == "model"
    }
    blessings = [
        bool(value_of(artifact.custom_properties["blessed"]))
        for artifact in artifacts.values()
        if artifact.type == "ModelBlessing" and "blessed" in artifact.custom_properties
    ]
    return RunRecord(
        run_id=context.name,
        started=time_of(context.create_time_since_epoch),
        steps=tuple(
            StepRecord(
                node=nodes.get(execution.id, execution.type),
                state=(state := _state(execution)),
                seconds=None if state in ("interrupted", "running") else _seconds(execution),
                execution_id=execution.id,
                outputs=output_uris(execution.id, events, artifacts),
                engine=engines.get(nodes.get(execution.id, ""), "") if state == "done" else "",
            )
            for execution in executions
        ),
        pushed_version=versions[-1] if versions else None,
        blessed=all(blessings) if blessings else None,
        # Earlier releases had one value for recipe and fingerprint, a property of the Trainer.
        recipe=_text(left, "LatestPushedModel", RECIPE) or _text(given, "Trainer", FINGERPRINT),
        fingerprint=_text(left, "Trainer", FINGERPRINT) or _text(given, "Trainer", FINGERPRINT),
        production_fingerprint=_text(left, "LatestPushedModel", FINGERPRINT),
        spans=tuple(sorted({number for artifact in artifacts.values() for number in spans_of(artifact)})),
        trigger=about.get(_TRIGGER, ""),
        attempt=int(_text(given, "LatestPushedModel", "attempt") or _text(given, "Trainer", "attempt") or 0),
        base_problem=_text(left, "Trainer", BASE_PROBLEM) or "",
        configuration=about.get(_CONFIGURATION, ""),
        inputs=about.get(_INPUTS, ""),
    )


def _text(properties: Mapping[str, Mapping[str, pb.Value]], node: str, name: str) -> str | None:
    found = properties.get(node, {})
    return str(value_of(found[name])) or None if name in found else None


def _state(execution: pb.Execution) -> State:
    return "interrupted" if _INTERRUPTED in execution.custom_properties else _STATES.get(execution.last_known_state, "running")


def _seconds(execution: pb.Execution) -> float:
    return (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000
