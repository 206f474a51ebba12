"""What ML Metadata knows of the runs: their steps, what they made, and from which spans a pushed model comes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, Literal

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from components.disk import writing_in
from components.errors import CaptchaPipelineError

# "running": neither finished nor marked, so either under way or killed with no run since.
State = Literal["done", "cached", "failed", "interrupted", "running"]
Property = str | int | float

_INTERRUPTED: Final = "interrupted"  # the custom property that tells a killed step from one that failed by itself
_SPANS: Final = "spans"  # on the examples artifact: a JSON list of span numbers
_CHECKSUMS: Final = "span_checksums"  # likewise: of their manifests
_TRIGGER: Final = "trigger"  # on the context of a run
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
    `outputs` holds the URIs under each output's name; a step that did not finish has none.
    """

    node: str
    state: State
    seconds: float | None
    execution_id: int
    outputs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class RunRecord:
    """One run of the pipeline, its steps in the order in which they ran.

    `pushed_version` is the version that the run's Pusher stands for: where that step was cached, the one pushed before. None
    where nothing was pushed. `blessed` is None where no Evaluator finished. `fingerprint` is that of the model, None where no Trainer
    began; `spans` are those that ExampleGen read. `trigger` says why the run was started, "" where that is not on record; `attempt` is
    how often the same had been fitted before.
    """

    run_id: str
    started: datetime
    steps: tuple[StepRecord, ...]
    pushed_version: str | None
    blessed: bool | None
    fingerprint: str | None
    spans: tuple[int, ...]
    trigger: str = ""
    attempt: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every step finished, the Pusher included, whether or not the model was blessed."""
        return all(step.state in ("done", "cached") for step in self.steps) and any("pushed_model" in step.outputs for step in self.steps)

    def artifact_uri(self, node: str, key: str) -> str | None:
        """Returns where the output `key` of step `node` lies; None if the step did not run, did not finish, or has no such output."""
        uris = next((step.outputs.get(key, ()) for step in self.steps if step.node == node), ())
        return uris[0] if uris else None


@dataclass(frozen=True)
class LineageStep:
    """An execution that took part in making a model: the one that did the work, not those that found it cached."""

    node: str
    run_id: str
    execution_id: int
    finished: datetime
    properties: Mapping[str, Property]
    outputs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Lineage:
    """From which spans, and by which executions, a pushed version came to be. `steps` follow the data, the Pusher last.

    `spans` holds, by number, the checksum of each span's manifest. `base` is the version that its fit went on from, None where it started
    from nothing.
    """

    version: str
    spans: Mapping[int, str]
    steps: tuple[LineageStep, ...]
    base: str | None


def runs(metadata_path: str | Path) -> list[RunRecord]:
    """Returns every run, the newest last; none where there is no metadata file.

    Raises:
      CaptchaPipelineError: the file is not ML Metadata's, or another process has it locked.
    """
    store = _open(metadata_path)
    if store is None:
        return []
    nodes = _nodes(store)
    return [_run(store, context, nodes) for context in _run_contexts(store)]


def latest_run(metadata_path: str | Path) -> RunRecord | None:
    """Returns the newest run; None where there is none.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = _open(metadata_path)
    contexts = _run_contexts(store) if store else []
    return _run(store, contexts[-1], _nodes(store)) if store and contexts else None


def latest_complete_run(metadata_path: str | Path) -> RunRecord:
    """Returns the newest complete run.

    Raises:
      CaptchaPipelineError: there is none, or as `runs`.
    """
    for run in reversed(runs(metadata_path)):
        if run.is_complete:
            return run
    raise CaptchaPipelineError(f"{metadata_path} knows of no run that is complete. Start one with `captcha-pipeline run`.")


def lineage(metadata_path: str | Path, version: str) -> Lineage:
    """Follows a pushed version back through the events to the spans it was trained on.

    Raises:
      CaptchaPipelineError: no run pushed that version, or as `runs`.
    """
    store = _open(metadata_path)
    pushed = {} if store is None else {v: a for a in store.get_artifacts_by_type("PushedModel") if (v := _pushed_version(a))}
    if store is None or version not in pushed:
        known = f"It knows {', '.join(pushed)}." if pushed else "It knows of no pushed model."
        raise CaptchaPipelineError(f"{metadata_path} has no record of version {version}. {known} `captcha-pipeline runs` lists the runs.")
    nodes = _nodes(store)
    run_ids = {execution.id: context.name for context in _run_contexts(store) for execution in store.get_executions_by_context(context.id)}
    executions = _ancestors(store, pushed[version])
    events = _events(store, executions)
    artifacts = _artifacts(store, events)
    steps = tuple(
        LineageStep(
            node=nodes.get(execution.id, execution.type),
            run_id=run_ids.get(execution.id, ""),
            execution_id=execution.id,
            finished=_time(execution.last_update_time_since_epoch),
            properties={
                key: _value(value)
                for key, value in sorted([*execution.properties.items(), *execution.custom_properties.items()])
                if not key.startswith("__")
            },
            outputs=_outputs(execution.id, events, artifacts),
        )
        for execution in executions
    )
    spans = {number: checksum for artifact in artifacts.values() for number, checksum in _spans(artifact).items()}
    bases = [
        str(_value(artifacts[event.artifact_id].custom_properties["version"]))
        for event in events
        if not _is_output(event) and event.path.steps[0].key == "base_model"
    ]
    # What LatestPushedModel had for the fit may have been no model.
    return Lineage(version, dict(sorted(spans.items())), steps, next(filter(None, bases), None))


def note_trigger(metadata_path: str | Path, trigger: str, known: Iterable[str]) -> None:
    """Puts on record why the run that is not among the `known` names was started, if it has come so far as to be on record itself.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = _open(metadata_path)
    for context in _run_contexts(store) if store else []:
        if store and context.name not in known:
            context.custom_properties[_TRIGGER].string_value = trigger
            store.put_contexts([context])


def run_ids(metadata_path: str | Path) -> list[str]:
    """Returns the names of all runs, the newest last. Raises CaptchaPipelineError as `runs`."""
    store = _open(metadata_path)
    return [context.name for context in _run_contexts(store)] if store else []


def mark_interrupted(metadata_path: str | Path) -> int:
    """Sets to FAILED what a killed process left as running, and returns how many executions that were.

    Call it only while holding the run lock: it cannot tell a dead process from a live one.

    Raises:
      CaptchaPipelineError: as `runs`.
    """
    store = _open(metadata_path)
    left = [] if store is None else [e for e in store.get_executions() if e.last_known_state in _UNFINISHED]
    for execution in left:
        execution.last_known_state = pb.Execution.FAILED
        execution.custom_properties[_INTERRUPTED].int_value = 1
    if store and left:
        store.put_executions(left)
    return len(left)


def _open(metadata_path: str | Path) -> metadata_store.MetadataStore | None:
    if not Path(metadata_path).is_file():
        return None
    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(metadata_path)
    # Not the default, which would create the file if it vanished in between. Read-only will not do: a process killed while it
    # made the file leaves one without tables, and those are then made here.
    config.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE
    try:
        with writing_in(Path(metadata_path).parent):
            return metadata_store.MetadataStore(config)
    except (errors.StatusError, RuntimeError) as error:
        # MLMD has no error of its own for a lock that it could not get in about 20 seconds; it says so in the text alone.
        locked = "Concurrent writes aborted" in str(error)
        raise CaptchaPipelineError(
            f"{metadata_path} is locked by another process. Try again when that is done."
            if locked
            else f"{metadata_path} cannot be read as ML Metadata: {error}. Move it away to start a new history; pushed models stay."
        ) from None


def _run_contexts(store: metadata_store.MetadataStore) -> list[pb.Context]:
    # By number, not by time: the clock may have been set back between two of them.
    return sorted(store.get_contexts_by_type("pipeline_run"), key=lambda context: context.id)


def _nodes(store: metadata_store.MetadataStore) -> dict[int, str]:
    """The node id of each execution: TFX puts it into a context named PIPELINE.NODE, and into no property."""
    return {
        execution.id: context.name.partition(".")[2]
        for context in store.get_contexts_by_type("node")
        for execution in store.get_executions_by_context(context.id)
    }


def _run(store: metadata_store.MetadataStore, context: pb.Context, nodes: Mapping[int, str]) -> RunRecord:
    executions = sorted(store.get_executions_by_context(context.id), key=lambda execution: execution.id)
    events = _events(store, executions)
    artifacts = _artifacts(store, [event for event in events if _is_output(event)])
    versions = [version for artifact in artifacts.values() if (version := _pushed_version(artifact))]
    trainer: Mapping[str, pb.Value] = next((it.custom_properties for it in executions if nodes.get(it.id) == "Trainer"), {})
    blessings = [
        bool(_value(artifact.custom_properties["blessed"]))
        for artifact in artifacts.values()
        if artifact.type == "ModelBlessing" and "blessed" in artifact.custom_properties
    ]
    return RunRecord(
        run_id=context.name,
        started=_time(context.create_time_since_epoch),
        steps=tuple(
            StepRecord(
                node=nodes.get(execution.id, execution.type),
                state=(state := _state(execution)),
                seconds=None if state in ("interrupted", "running") else _seconds(execution),
                execution_id=execution.id,
                outputs=_outputs(execution.id, events, artifacts),
            )
            for execution in executions
        ),
        pushed_version=versions[-1] if versions else None,
        blessed=all(blessings) if blessings else None,
        fingerprint=str(_value(trainer["fingerprint"])) if "fingerprint" in trainer else None,
        spans=tuple(sorted({number for artifact in artifacts.values() for number in _spans(artifact)})),
        trigger=context.custom_properties[_TRIGGER].string_value if _TRIGGER in context.custom_properties else "",
        attempt=int(_value(trainer["attempt"])) if "attempt" in trainer else 0,
    )


def _ancestors(store: metadata_store.MetadataStore, artifact: pb.Artifact) -> list[pb.Execution]:
    """The executions that made the artifact, those that made their inputs, and so on, oldest first."""
    found: dict[int, pb.Execution] = {}
    wanted, seen = [artifact.id], {artifact.id}
    while wanted:
        # A cached execution has output events on the very artifacts of the one that made them; only that one is COMPLETE.
        producers = {event.execution_id for event in store.get_events_by_artifact_ids(wanted) if _is_output(event)} - found.keys()
        executions = [e for e in store.get_executions_by_id(producers) if e.last_known_state == pb.Execution.COMPLETE]
        found |= {execution.id: execution for execution in executions}
        wanted = sorted({event.artifact_id for event in _events(store, executions) if not _is_output(event)} - seen)
        seen |= set(wanted)
    return [found[i] for i in sorted(found)]


def _events(store: metadata_store.MetadataStore, executions: Iterable[pb.Execution]) -> list[pb.Event]:
    ids = [execution.id for execution in executions]
    return store.get_events_by_execution_ids(ids) if ids else []


def _artifacts(store: metadata_store.MetadataStore, events: Iterable[pb.Event]) -> dict[int, pb.Artifact]:
    ids = sorted({event.artifact_id for event in events})
    return {artifact.id: artifact for artifact in (store.get_artifacts_by_id(ids) if ids else [])}


def _outputs(execution_id: int, events: Iterable[pb.Event], artifacts: Mapping[int, pb.Artifact]) -> dict[str, tuple[str, ...]]:
    outputs: dict[str, tuple[str, ...]] = {}
    for event in events:
        if event.execution_id == execution_id and _is_output(event):
            key = event.path.steps[0].key
            outputs[key] = (*outputs.get(key, ()), artifacts[event.artifact_id].uri)
    return outputs


def _is_output(event: pb.Event) -> bool:
    return event.type == pb.Event.OUTPUT


def _state(execution: pb.Execution) -> State:
    return "interrupted" if _INTERRUPTED in execution.custom_properties else _STATES.get(execution.last_known_state, "running")


def _pushed_version(artifact: pb.Artifact) -> str | None:
    properties = artifact.custom_properties
    if artifact.type != "PushedModel" or "pushed_version" not in properties:
        return None
    return str(_value(properties["pushed_version"])) or None


def _spans(artifact: pb.Artifact) -> Mapping[int, str]:
    """The spans on an examples artifact, with their checksums ("" where it has none), as CaptchaExampleGen left them."""
    if artifact.type != "Examples" or _SPANS not in artifact.custom_properties:
        return {}
    numbers, checksums = (json.loads(artifact.custom_properties[name].string_value or "[]") for name in (_SPANS, _CHECKSUMS))
    return dict(zip(numbers, checksums or [""] * len(numbers), strict=True))


def _seconds(execution: pb.Execution) -> float:
    return (execution.last_update_time_since_epoch - execution.create_time_since_epoch) / 1000


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)


def _value(value: pb.Value) -> Property:
    field = value.WhichOneof("value")
    return getattr(value, field) if field in ("int_value", "double_value", "string_value") else ""
