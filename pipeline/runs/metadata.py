"""Reads the records of runs from ML Metadata's store: the properties that TFX and the steps of this pipeline write."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from ml_metadata import errors, metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError

Property = str | int | float

RUN_TYPE: Final = "pipeline_run"  # TFX's type of a run's context
_SPANS: Final = "spans"  # property of the examples artifact: a JSON list of span numbers
_CHECKSUMS: Final = "span_checksums"  # property of the examples artifact: a JSON list of the checksums of their manifests


def open_store(metadata_path: str | Path, *, create: bool = False) -> metadata_store.MetadataStore | None:
    """Opens ML Metadata's SQLite file; returns None if the file does not exist and `create` is not set.

    Raises:
      CaptchaPipelineError: the file is not ML Metadata's, another process has locked it, or the disk cannot be written.
    """
    if not create and not Path(metadata_path).is_file():
        return None
    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(metadata_path)
    # Not read-only: a process killed while it created the file leaves it without tables, which are then created here.
    modes = pb.SqliteMetadataSourceConfig
    config.sqlite.connection_mode = modes.READWRITE_OPENCREATE if create else modes.READWRITE
    try:
        with writing_in(Path(metadata_path).parent):
            return metadata_store.MetadataStore(config)
    except (errors.StatusError, RuntimeError) as error:
        # MLMD has no error class for a lock that it did not get within about 20 seconds. Only the error's text says so.
        locked = "Concurrent writes aborted" in str(error)
        raise CaptchaPipelineError(
            f"{metadata_path} is locked by another process. Try again when that process has finished."
            if locked
            else f"{metadata_path} cannot be read as ML Metadata: {error}. Move it away to start a new history; pushed models are kept."
        ) from None


def run_contexts(store: metadata_store.MetadataStore) -> list[pb.Context]:
    """Returns the contexts of all runs, oldest first."""
    # By ID, not by time: the clock may have been set back between two runs.
    return sorted(store.get_contexts_by_type(RUN_TYPE), key=lambda context: context.id)


def node_names(store: metadata_store.MetadataStore) -> dict[int, str]:
    """Returns the node ID of each execution, by execution ID. TFX stores it only in the name of a context, PIPELINE.NODE."""
    return {
        execution.id: context.name.partition(".")[2]
        for context in store.get_contexts_by_type("node")
        for execution in store.get_executions_by_context(context.id)
    }


def events_of(store: metadata_store.MetadataStore, executions: Iterable[pb.Execution]) -> list[pb.Event]:
    """Returns the input and output events of executions."""
    ids = [execution.id for execution in executions]
    return store.get_events_by_execution_ids(ids) if ids else []


def artifacts_of(store: metadata_store.MetadataStore, events: Iterable[pb.Event]) -> dict[int, pb.Artifact]:
    """Returns the artifacts of events, by artifact ID."""
    ids = sorted({event.artifact_id for event in events})
    return {artifact.id: artifact for artifact in (store.get_artifacts_by_id(ids) if ids else [])}


def output_uris(execution_id: int, events: Iterable[pb.Event], artifacts: Mapping[int, pb.Artifact]) -> dict[str, tuple[str, ...]]:
    """Returns the URIs of the artifacts that an execution wrote, by output name."""
    outputs: dict[str, tuple[str, ...]] = {}
    for event in events:
        if event.execution_id == execution_id and is_output(event):
            key = event.path.steps[0].key
            outputs[key] = (*outputs.get(key, ()), artifacts[event.artifact_id].uri)
    return outputs


def is_output(event: pb.Event) -> bool:
    """Whether an event is about an output; otherwise it is about an input."""
    return event.type == pb.Event.OUTPUT


def pushed_version(artifact: pb.Artifact) -> str | None:
    """Returns the version of a PushedModel artifact; None if nothing was pushed, and for other artifacts."""
    properties = artifact.custom_properties
    if artifact.type != "PushedModel" or "pushed_version" not in properties:
        return None
    return str(value_of(properties["pushed_version"])) or None


def spans_of(artifact: pb.Artifact) -> Mapping[int, str]:
    """Returns the checksums of the spans that CaptchaExampleGen read, by span number; "" for a checksum that is not on record."""
    if artifact.type != "Examples" or _SPANS not in artifact.custom_properties:
        return {}
    numbers, checksums = (json.loads(artifact.custom_properties[name].string_value or "[]") for name in (_SPANS, _CHECKSUMS))
    return dict(zip(numbers, checksums or [""] * len(numbers), strict=True))


def time_of(milliseconds: int) -> datetime:
    """Converts ML Metadata's milliseconds since 1970 to a time in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=timezone.utc)


def value_of(value: pb.Value) -> Property:
    """Returns the value of a property; "" if it is not set."""
    field = value.WhichOneof("value")
    return getattr(value, field) if field in ("int_value", "double_value", "string_value") else ""
