import contextlib
import json
import sqlite3
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as pb
from rich.console import Console
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.types.experimental.simple_artifacts import Metrics

from components.base.errors import CaptchaPipelineError
from pipeline.reporting.tables import print_lineage
from pipeline.runs import history
from pipeline.runs.lineage import lineage
from tests.support.recorded_run import put_on_record


@component
def Reader(spans: Parameter[str], examples: OutputArtifact[standard_artifacts.Examples], quarantine: OutputArtifact[Metrics]) -> None:
    Path(quarantine.uri).mkdir(parents=True, exist_ok=True)
    if spans:
        examples.set_string_custom_property("spans", spans)
        examples.set_string_custom_property("span_checksums", json.dumps([chr(96 + number) * 2 for number in json.loads(spans)]))


@component
def Fitter(
    examples: InputArtifact[standard_artifacts.Examples], epochs: Parameter[int], model: OutputArtifact[standard_artifacts.Model]
) -> None:
    if epochs == 13:
        raise ValueError("thirteen")


@component
def Judge(
    model: InputArtifact[standard_artifacts.Model],
    examples: InputArtifact[standard_artifacts.Examples],
    blessed: Parameter[int],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
) -> None:
    blessing.set_int_custom_property("blessed", blessed)


@component
def Publisher(
    model: InputArtifact[standard_artifacts.Model],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    version: Parameter[str],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
) -> None:
    pushed_model.set_int_custom_property("pushed", int(bool(version)))
    if version:
        pushed_model.set_string_custom_property("pushed_version", version)


@component
def LatestPushedModel(attempt: Parameter[int], model: OutputArtifact[standard_artifacts.Model]) -> None:
    model.set_string_custom_property("recipe", f"attempt {attempt}")
    model.set_string_custom_property("fingerprint", "of production")
    model.set_int_custom_property("version", 17)


@component
def Trainer(
    examples: InputArtifact[standard_artifacts.Examples],
    base_model: InputArtifact[standard_artifacts.Model],
    warm_start: Parameter[int],
    base_problem: Parameter[str],
    model: OutputArtifact[standard_artifacts.Model],
) -> None:
    model.set_string_custom_property("fingerprint", "of this")
    model.set_string_custom_property("base_problem", base_problem)
    model.set_int_custom_property("warm_start", warm_start)
    if base_problem == "killed":
        raise ValueError("killed")


def run_warm(folder: Path, warm_start: int, base_problem: str = "") -> Path:
    """Makes a run with version 17 as the base of its fit, which pushes version 18; returns the path of the metadata."""
    reader, production = Reader(spans="[1]"), LatestPushedModel(attempt=2)
    examples, base = reader.outputs["examples"], production.outputs["model"]
    trainer = Trainer(examples=examples, base_model=base, warm_start=warm_start, base_problem=base_problem)
    judge = Judge(model=trainer.outputs["model"], examples=examples, blessed=1)
    publisher = Publisher(model=trainer.outputs["model"], blessing=judge.outputs["blessing"], version="18")
    return run_pipeline(folder, [reader, production, trainer, judge, publisher])


def run(folder: Path, epochs: int = 1, version: str = "1", spans: str = "[1, 2]", blessed: int = 1) -> Path:
    reader = Reader(spans=spans)
    fitter = Fitter(examples=reader.outputs["examples"], epochs=epochs)
    judge = Judge(model=fitter.outputs["model"], examples=reader.outputs["examples"], blessed=blessed)
    publisher = Publisher(model=fitter.outputs["model"], blessing=judge.outputs["blessing"], version=version)
    return run_pipeline(folder, [reader, fitter, judge, publisher])


def run_pipeline(folder: Path, components: list[Any]) -> Path:
    metadata_path = folder / "metadata.sqlite"
    put_on_record(str(metadata_path), "tiny-pipeline", str(folder / "artifacts"), components)
    return metadata_path


@pytest.fixture(scope="module")
def metadata_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes five runs: all new, all cached, another hyperparameter, a failed step, more spans and not blessed."""
    folder = tmp_path_factory.mktemp("history")
    run(folder)
    run(folder)
    run(folder, epochs=2, version="2")
    with pytest.raises(ValueError, match="thirteen"):
        run(folder, epochs=13)
    return run(folder, spans="[1, 2, 3]", version="", blessed=0)


def states(record: history.RunRecord) -> dict[str, str]:
    return {step.node: step.state for step in record.steps}


def test_no_metadata_file_means_no_runs(tmp_path: Path) -> None:
    path = tmp_path / "none" / "metadata.sqlite"
    assert history.runs(path) == []
    assert history.latest_run(path) is None
    assert history.mark_interrupted(path) == 0
    assert not path.parent.exists()
    with pytest.raises(CaptchaPipelineError, match="no pushed model"):
        lineage(path, "1")


def test_an_empty_file_left_by_a_killed_process_means_no_runs(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.touch()
    assert history.runs(path) == []


def test_a_file_that_is_not_metadata_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_text("this is not a database " * 100)
    with pytest.raises(CaptchaPipelineError, match=r"metadata\.sqlite cannot be read"):
        history.runs(path)


def test_runs_are_listed_newest_last_with_the_state_of_each_step(metadata_path: Path) -> None:
    records = history.runs(metadata_path)
    assert [states(record) for record in records] == [
        {"Reader": "done", "Fitter": "done", "Judge": "done", "Publisher": "done"},
        {"Reader": "cached", "Fitter": "cached", "Judge": "cached", "Publisher": "cached"},
        {"Reader": "cached", "Fitter": "done", "Judge": "done", "Publisher": "done"},
        {"Reader": "cached", "Fitter": "failed"},
        {"Reader": "done", "Fitter": "done", "Judge": "done", "Publisher": "done"},
    ]
    assert [record.pushed_version for record in records] == ["1", "1", "2", None, None]
    assert [record.blessed for record in records] == [True, True, True, None, False]
    starts = [record.started for record in records]
    assert starts == sorted(starts)
    assert (datetime.now(timezone.utc) - starts[-1]).total_seconds() < 600
    assert all(step.seconds is not None and 0 <= step.seconds < 60 for record in records for step in record.steps)
    assert history.latest_run(metadata_path) == records[-1]


def test_the_latest_complete_run_is_one_whose_pusher_finished(tmp_path: Path) -> None:
    path = run(tmp_path)
    complete = history.latest_run(path)
    with pytest.raises(ValueError, match="thirteen"):
        run(tmp_path, epochs=13)
    assert history.latest_complete_run(path) == complete
    with pytest.raises(CaptchaPipelineError, match="no complete run"):
        history.latest_complete_run(tmp_path / "none.sqlite")


def test_outputs_are_found_by_node_and_key(metadata_path: Path) -> None:
    first, second, third, failed, _ = history.runs(metadata_path)
    uri = first.artifact_uri("Reader", "quarantine")
    assert uri is not None
    assert Path(uri).is_dir()
    assert second.artifact_uri("Reader", "quarantine") == uri
    assert third.artifact_uri("Fitter", "model") != first.artifact_uri("Fitter", "model")
    assert failed.artifact_uri("Fitter", "model") is None
    assert failed.artifact_uri("Publisher", "pushed_model") is None
    assert first.artifact_uri("Reader", "nothing") is None


def test_lineage_goes_back_to_the_spans_through_cached_steps(metadata_path: Path) -> None:
    records = history.runs(metadata_path)
    found = lineage(metadata_path, "2")
    assert (found.version, found.spans) == ("2", {1: "aa", 2: "bb"})
    assert [step.node for step in found.steps] == ["Reader", "Fitter", "Judge", "Publisher"]
    # The first run read the examples; the third run trained on them and found them cached.
    assert [step.run_id for step in found.steps] == [records[0].run_id] + [records[2].run_id] * 3
    reader, fitter, *_ = found.steps
    assert json.loads(str(reader.properties["spans"])) == [1, 2]
    assert fitter.properties["epochs"] == 2
    assert fitter.outputs["model"] == (records[2].artifact_uri("Fitter", "model"),)
    assert not any(key.startswith("__") for step in found.steps for key in step.properties)


def test_lineage_of_an_unknown_version_names_the_known_versions(metadata_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match=r"version 9\. The recorded versions are 1, 2"):
        lineage(metadata_path, "9")


def test_lineage_without_recorded_spans(tmp_path: Path) -> None:
    found = lineage(run(tmp_path, spans=""), "1")
    assert found.spans == {}
    assert [step.node for step in found.steps] == ["Reader", "Fitter", "Judge", "Publisher"]


@pytest.mark.parametrize(
    ("warm_start", "problem", "told"),
    [
        (1, "", ["Its fit continued from version 17."]),
        (1, "These layers start from nothing: head.", ["Its fit continued from version 17.", "These layers start from nothing: head."]),
        (0, "It cannot be read.", ["It cannot be read."]),
    ],
)
def test_lineage_names_the_actual_base_of_the_fit(tmp_path: Path, warm_start: int, problem: str, told: list[str]) -> None:
    path = run_warm(tmp_path, warm_start, problem)
    found = lineage(path, "18")
    assert (found.base, found.base_problem) == ("17" if warm_start else None, problem)
    with (console := Console(width=200)).capture() as capture:
        print_lineage(console, found)
    assert capture.get().partition("┏")[0].splitlines()[2:] == told, "after the spans, before the table of steps"
    last = history.latest_run(path)
    assert last is not None
    assert (last.recipe, last.fingerprint, last.production_fingerprint) == ("attempt 2", "of this", "of production")
    assert (last.attempt, last.base_problem) == (2, problem)


def test_a_run_that_fails_in_its_fit_has_a_recipe_and_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="killed"):
        run_warm(tmp_path, 1, "killed")
    last = history.latest_run(tmp_path / "metadata.sqlite")
    assert last is not None
    assert (last.recipe, last.fingerprint, last.attempt) == ("attempt 2", None, 2)


def test_a_step_of_a_killed_process_is_marked_once(tmp_path: Path) -> None:
    path = run(tmp_path)
    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    store = metadata_store.MetadataStore(config)
    execution = store.get_executions()[-1]
    execution.last_known_state = pb.Execution.RUNNING
    store.put_executions([execution])

    def last() -> tuple[str, float | None]:
        latest = history.latest_run(path)
        assert latest is not None
        return latest.steps[-1].state, latest.steps[-1].seconds

    assert last() == ("running", None)
    assert history.mark_interrupted(path) == 1
    assert last() == ("interrupted", None)
    assert store.get_executions_by_id([execution.id])[0].last_known_state == pb.Execution.FAILED
    assert history.mark_interrupted(path) == 0
    # The next run does not reuse the killed step.
    run(tmp_path)
    latest = history.latest_run(path)
    assert latest is not None
    assert states(latest) == {"Reader": "cached", "Fitter": "cached", "Judge": "cached", "Publisher": "done"}


def test_a_run_is_recorded_before_its_first_step(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    history.begin(path, "2026-11-28T12:00:00", history.SEARCH, {"Reader": "FlinkRunner"}, "name: tiny\n", "f00d")
    (killed,) = history.runs(path)
    assert (killed.run_id, killed.trigger, killed.steps) == ("2026-11-28T12:00:00", "a search", ())
    assert (killed.configuration, killed.inputs) == ("name: tiny\n", "f00d")
    assert killed.is_search
    assert not killed.is_complete
    run(tmp_path)
    _, complete = history.runs(path)
    assert complete.is_complete
    assert not complete.is_search


def test_the_order_of_runs_does_not_depend_on_the_clock(tmp_path: Path) -> None:
    path = run(tmp_path)
    run(tmp_path, epochs=2, version="2")
    last = history.latest_run(path)
    assert last is not None
    # As if the clock had been set back by a day in between. ML Metadata accepts no times, so the database is edited.
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        earlier = "UPDATE Context SET create_time_since_epoch = create_time_since_epoch - 86400000 WHERE name = ?"
        database.execute(earlier, (last.run_id,))
    runs = history.runs(path)
    assert [it.pushed_version for it in runs] == ["1", "2"]
    assert runs[0].started > runs[1].started
    assert history.latest_complete_run(path) == history.latest_run(path) == runs[1]
