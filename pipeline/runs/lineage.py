"""Traces a pushed version back to the spans that it was made from."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from components.base.errors import CaptchaPipelineError
from components.base.features import BASE_PROBLEM, WARM_START
from pipeline.runs.metadata import (
    Property,
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


@dataclass(frozen=True)
class LineageStep:
    """An execution that helped to make a model: the one that did the work, not a later one that reused its cached result."""

    node: str
    run_id: str
    execution_id: int
    finished: datetime
    properties: Mapping[str, Property]
    outputs: Mapping[str, tuple[str, ...]]
    removed: bool  # whether `pipeline.garbage.collect` has removed the outputs


@dataclass(frozen=True)
class Lineage:
    """The spans and the executions that a pushed version was made from.

    Attributes:
      version: the pushed version.
      spans: the checksum of each span's manifest, by span number.
      steps: the executions in the order of the data, the Pusher last.
      base: the version that the fit continued from; None if it started from scratch.
      base_problem: why the fit could not continue from the production model, or only in part; "" if there was no problem.
    """

    version: str
    spans: Mapping[int, str]
    steps: tuple[LineageStep, ...]
    base: str | None
    base_problem: str


def lineage(metadata_path: str | Path, version: str) -> Lineage:
    """Traces a pushed version back through the events to the spans it was trained on.

    Raises:
      CaptchaPipelineError: no run pushed that version, or as `runs`.
    """
    store = open_store(metadata_path)
    pushed = {} if store is None else {v: a for a in store.get_artifacts_by_type("PushedModel") if (v := pushed_version(a))}
    if store is None or version not in pushed:
        known = f"The recorded versions are {', '.join(pushed)}." if pushed else "It records no pushed model."
        raise CaptchaPipelineError(f"{metadata_path} has no record of version {version}. {known} `captcha-pipeline runs` lists the runs.")
    nodes = node_names(store)
    run_ids = {execution.id: context.name for context in run_contexts(store) for execution in store.get_executions_by_context(context.id)}
    executions = _ancestors(store, pushed[version])
    events = events_of(store, executions)
    artifacts = artifacts_of(store, events)
    steps = tuple(
        LineageStep(
            node=nodes.get(execution.id, execution.type),
            run_id=run_ids.get(execution.id, ""),
            execution_id=execution.id,
            finished=time_of(execution.last_update_time_since_epoch),
            properties={
                key: value_of(value)
                for key, value in sorted([*execution.properties.items(), *execution.custom_properties.items()])
                if not key.startswith("__")
            },
            outputs=output_uris(execution.id, events, artifacts),
            removed=any(
                artifacts[event.artifact_id].state == pb.Artifact.DELETED
                for event in events
                if event.execution_id == execution.id and is_output(event)
            ),
        )
        for execution in executions
    )
    spans = {number: checksum for artifact in artifacts.values() for number, checksum in spans_of(artifact).items()}
    bases = [
        str(value_of(artifacts[event.artifact_id].custom_properties["version"]))
        for event in events
        if not is_output(event) and event.path.steps[0].key == "base_model"
    ]
    # None for a fit of an earlier release, which continued from the given model if it could.
    fitted = next((it.custom_properties for it in artifacts.values() if WARM_START in it.custom_properties), None)
    return Lineage(
        version=version,
        spans=dict(sorted(spans.items())),
        steps=steps,
        # An artifact of LatestPushedModel may have no model, and then has an empty version.
        base=next(filter(None, bases), None) if fitted is None or value_of(fitted[WARM_START]) else None,
        base_problem=str(value_of(fitted[BASE_PROBLEM])) if fitted is not None else "",
    )


def _ancestors(store: metadata_store.MetadataStore, artifact: pb.Artifact) -> list[pb.Execution]:
    """Returns the executions that made the artifact, those that made their inputs, and so on, oldest first."""
    found: dict[int, pb.Execution] = {}
    wanted, seen = [artifact.id], {artifact.id}
    while wanted:
        # A cached execution has output events on the same artifacts as the execution that made them. Only the latter is COMPLETE.
        producers = {event.execution_id for event in store.get_events_by_artifact_ids(wanted) if is_output(event)} - found.keys()
        executions = [e for e in store.get_executions_by_id(producers) if e.last_known_state == pb.Execution.COMPLETE]
        found |= {execution.id: execution for execution in executions}
        wanted = sorted({event.artifact_id for event in events_of(store, executions) if not is_output(event)} - seen)
        seen |= set(wanted)
    return [found[i] for i in sorted(found)]
