"""What ML Metadata knows of the runs: their steps, and what they made."""

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

# "running": neither finished nor marked, so either under way or killed with no run since.
State = Literal["done", "cached", "failed", "interrupted", "running"]

_INTERRUPTED: Final = "interrupted"  # the custom property that tells a killed step from one that failed by itself
_TRIGGER: Final = "trigger"  # on the context of a run
_ENGINES: Final = "engines"  # likewise: in JSON, by step
_CONFIGURATION: Final = "configuration"  # likewise: in YAML
SEARCH: Final = "a search"  # the trigger of a search for hyperparameters
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

    `seconds` runs from the step's registration to its end; None while it runs and where it was killed, as nobody saw the end.
    `outputs` holds the URIs under each output's name; a step that did not finish has none. `engine` is what the step ran on, "" for
    this machine, and where it was reused.
    """

    node: str
    state: State
    seconds: float | None
    execution_id: int
    outputs: Mapping[str, tuple[str, ...]]
    engine: str = ""


@dataclass(frozen=True)
class RunRecord:
    """One run of the pipeline, its steps in the order in which they ran.

    `pushed_version` is the version that the run's Pusher stands for: where that step was cached, the one pushed before. None
    where nothing was pushed. `blessed` is None where no Evaluator finished. `recipe` is that of the model, None where the run did not come
    as far as the search for a baseline; `fingerprint` is the model's, None where no Trainer finished; `baseline` is the fingerprint of the
    model in production that it was compared with, None for none (components/base/recipe.py says what these are). `spans` are those that
    ExampleGen read. `trigger` says why the run was started, "" where that is not on record; `attempt` is how often the same had been
    fitted before. `base_problem` says why the fit could not go on from the model in production, or only in part, "" for no reason.
    `configuration` is all of it, in YAML; "" where it is not on record, as of earlier releases.
    """

    run_id: str
    started: datetime
    steps: tuple[StepRecord, ...]
    pushed_version: str | None
    blessed: bool | None
    recipe: str | None
    fingerprint: str | None
    spans: tuple[int, ...]
    baseline: str | None = None
    trigger: str = ""
    attempt: int = 0
    base_problem: str = ""
    configuration: str = ""

    @property
    def is_search(self) -> bool:
        """Whether this is a search for hyperparameters, which makes no model."""
        return self.trigger == SEARCH or any(step.node == "Tuner" for step in self.steps)

    @property
    def is_complete(self) -> bool:
        """Whether every step finished, the Pusher included, whether or not the model was blessed."""
        return all(step.state in ("done", "cached") for step in self.steps) and any("pushed_model" in step.outputs for step in self.steps)

    def state_of(self, node: str) -> State | None:
        """Returns how far step `node` has come; None if it did not begin."""
        return next((step.state for step in self.steps if step.node == node), None)

    def artifact_uri(self, node: str, key: str) -> str | None:
        """Returns where the output `key` of step `node` lies; None if the step did not run, did not finish, or has no such output."""
        uris = next((step.outputs.get(key, ()) for step in self.steps if step.node == node), ())
        return uris[0] if uris else None


def runs(metadata_path: str | Path) -> list[RunRecord]:
    """Returns every run, the newest last; none where there is no metadata file.

    Raises:
      CaptchaPipelineError: the file is not ML Metadata's, or another process has it locked.
    """
    store = open_store(metadata_path)
    if store is None:
        return []
    nodes = node_names(store)
    return [_run(store, context, nodes) for context in run_contexts(store)]


def latest_run(metadata_path: str | Path) -> RunRecord | None:
    """Returns the newest run; None where there is none.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = open_store(metadata_path)
    contexts = run_contexts(store) if store else []
    return _run(store, contexts[-1], node_names(store)) if store and contexts else None


def latest_complete_run(metadata_path: str | Path) -> RunRecord:
    """Returns the newest complete run.

    Raises:
      CaptchaPipelineError: there is none, or as `runs`.
    """
    for run in reversed(runs(metadata_path)):
        if run.is_complete:
            return run
    raise CaptchaPipelineError(f"{metadata_path} knows of no run that is complete. Start one with `captcha-pipeline run`.")


def begin(metadata_path: str | Path, run_id: str, trigger: str, engines: Mapping[str, str], configuration: str) -> None:
    """Puts a run on record before TFX does, which finds it there: a run that is killed has then said what it was.

    Args:
      metadata_path: of ML Metadata's SQLite file, which is made if it is missing.
      run_id: the name of the run.
      trigger: why it is started; SEARCH for a search for hyperparameters.
      engines: by step, the engine that it runs on, where that is not this machine.
      configuration: all of it, in YAML.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = open_store(metadata_path, create=True)
    assert store is not None, "it is made"
    context = pb.Context(type_id=store.put_context_type(pb.ContextType(name=RUN_TYPE)), name=run_id)
    for name, value in ((_TRIGGER, trigger), (_ENGINES, json.dumps(engines)), (_CONFIGURATION, configuration)):
        context.custom_properties[name].string_value = value
    store.put_contexts([context])


def mark_interrupted(metadata_path: str | Path) -> int:
    """Sets to FAILED what a killed process left as running, and returns how many executions that were.

    Call it only while holding the run lock: it cannot tell a dead process from a live one.

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
    engines = json.loads(context.custom_properties[_ENGINES].string_value) if _ENGINES in context.custom_properties else {}
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
        # Earlier releases had one name for recipe and fingerprint, and gave it to the Trainer.
        recipe=_text(left, "LatestPushedModel", RECIPE) or _text(given, "Trainer", FINGERPRINT),
        fingerprint=_text(left, "Trainer", FINGERPRINT) or _text(given, "Trainer", FINGERPRINT),
        baseline=_text(left, "LatestPushedModel", FINGERPRINT),
        spans=tuple(sorted({number for artifact in artifacts.values() for number in spans_of(artifact)})),
        trigger=context.custom_properties[_TRIGGER].string_value if _TRIGGER in context.custom_properties else "",
        attempt=int(_text(given, "LatestPushedModel", "attempt") or _text(given, "Trainer", "attempt") or 0),
        base_problem=_text(left, "Trainer", BASE_PROBLEM) or "",
        configuration=context.custom_properties[_CONFIGURATION].string_value if _CONFIGURATION in context.custom_properties else "",
    )


def _text(properties: Mapping[str, Mapping[str, pb.Value]], node: str, name: str) -> str | None:
    found = properties.get(node, {})
    return str(value_of(found[name])) or None if name in found else None


def _state(execution: pb.Execution) -> State:
    return "interrupted" if _INTERRUPTED in execution.custom_properties else _STATES.get(execution.last_known_state, "running")


def _seconds(execution: pb.Execution) -> float:
    return (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000
