"""The Beam steps on a real Flink cluster give the same records as on this machine. `make test-flink` runs these tests."""

import gzip
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_data_validation as tfdv
from google.protobuf.json_format import MessageToDict

from components.base.features import PIXEL_MEAN, PIXEL_STD, SPLITS, SUMMARY_FILE
from components.data.example_proto import Example
from components.data.spans import list_spans
from components.data.tfrecords import Record, read_records
from components.evaluator import load_results
from deploy.flink.cluster import REST, Cluster, ask
from pipeline.config.loading import load_config
from pipeline.runs import history
from pipeline.runs.outcomes import report_path
from tests.support.command import call
from tests.support.example_gen_run import say_what_lies_in
from tests.support.flink_run import CONFIG, MARKS, Root, profile, running, settings

pytestmark = MARKS
NAME = CONFIG.stem
# TFDV counts up to this many values of a string exactly: StatsOptions.num_rank_histogram_buckets.
SKETCH = 1000
STEPS = ("CaptchaExampleGen", "StatisticsGen", "Transform", "CaptchaEvaluator")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a span with enough shards for several workers: one shard has a damaged record, another is cut off in the middle."""
    root = tmp_path_factory.mktemp("data")
    shard_size = load_config(CONFIG).synth.count // 12
    call("data", "synth", *settings(f"data.root={root}", f"synth.shard_size={shard_size}"))
    first, second = list_spans(root)[0].files("train")[:2]
    content = bytearray(gzip.decompress(first.read_bytes()))
    content[200] ^= 1  # in the first record
    first.write_bytes(gzip.compress(bytes(content)))
    content = bytearray(gzip.decompress(second.read_bytes()))
    second.write_bytes(gzip.compress(bytes(content[: len(content) // 2])))
    say_what_lies_in(list_spans(root)[0])
    return root


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Root:
    root = Root(tmp_path_factory.mktemp("here"), data)
    call("run", *root.options)
    return root


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, data: Path, cluster: Cluster) -> Root:
    root = Root(tmp_path_factory.mktemp("there"), data)
    call("run", *root.options, "--beam", profile(cluster, Path(root.config.root)))
    return root


def records(folder: Path) -> list[str]:
    """Returns the sorted hashes of all records in a folder."""
    items = [item for path in folder.glob("*-of-*") for item in read_records(str(path))]
    assert all(isinstance(item, Record) for item in items)
    return sorted(hashlib.sha256(item.data).hexdigest() for item in items if isinstance(item, Record))


def test_the_steps_ran_as_flink_jobs(there: Root) -> None:
    jobs = {job["name"]: job["state"] for job in ask("/jobs/overview")["jobs"]}
    assert all(jobs[f"{NAME}-{step}"] == "FINISHED" for step in STEPS), jobs
    run = history.latest_run(there.config.metadata_path)
    assert run is not None
    assert {step.node: step.engine for step in run.steps if step.engine} == dict.fromkeys(STEPS, f"FlinkRunner at {REST}")
    report = report_path(there.config, run)
    assert report is not None
    assert report.read_text(encoding="utf-8").count(f"FlinkRunner at {REST}") >= len(STEPS)


def test_the_examples_are_the_same(here: Root, there: Root) -> None:
    for split in SPLITS:
        ours, theirs = (records(root.uri("CaptchaExampleGen", "examples") / f"Split-{split}") for root in (here, there))
        assert ours == theirs
        assert len(ours) > 50


def test_the_quarantine_is_the_same(here: Root, there: Root) -> None:
    folders = [root.uri("CaptchaExampleGen", "quarantine") for root in (here, there)]
    ours, theirs = (json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8")) for folder in folders)
    assert ours == theirs
    assert ours["bad"] > 1
    assert records(folders[0]) == records(folders[1])


def test_the_profiles_are_the_same(here: Root, there: Root) -> None:
    ours, theirs = (next(root.uri("CaptchaExampleGen", "profiles").iterdir()).read_text(encoding="utf-8") for root in (here, there))
    assert json.loads(ours) == json.loads(theirs)


def test_the_statistics_are_the_same(here: Root, there: Root) -> None:
    for split in SPLITS:
        ours, theirs = (statistics(root.uri("StatisticsGen", "statistics") / f"Split-{split}") for root in (here, there))
        assert ours.keys() == theirs.keys()
        for name, feature in ours.items():
            compare(feature, theirs[name], name)


def statistics(folder: Path) -> dict[str, Any]:
    (dataset,) = tfdv.load_stats_binary(str(folder / "FeatureStats.pb")).datasets
    found = {".".join(feature.path.step): MessageToDict(feature) for feature in dataset.features}
    return found | {"": {"examples": dataset.num_examples}}


def compare(ours: Any, theirs: Any, where: str) -> None:
    """Compares counts exactly, means except for the order of addition, and quantiles within the error of their sketches."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            if key == "histograms":
                continue  # histograms of quantiles, and of equal widths whose bounds depend on quantiles
            if key in ("topValues", "rankHistogram") and int(ours["unique"]) > SKETCH:
                continue  # these come from a sketch, whose frequencies depend on the order of the values
            compare(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            compare(one, other, f"{where}[{index}]")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=0.02 if where.endswith("median") else 1e-6), where
    else:
        assert ours == theirs, where


def transformed(folder: Path) -> tuple[list[str], set[tuple[float, float]]]:
    """Returns the sorted hashes of the Trainer's records, independent of feature order, and the mean and deviation of all pixels."""
    examples = [
        Example.FromString(item.data) for path in folder.glob("*-of-*") for item in read_records(str(path)) if isinstance(item, Record)
    ]
    statistics = set()
    for example in examples:
        mean, std = (example.features.feature.pop(name).float_list.value[0] for name in (PIXEL_MEAN, PIXEL_STD))
        statistics.add((mean, std))
    return sorted(hashlib.sha256(example.SerializeToString(deterministic=True)).hexdigest() for example in examples), statistics


def assert_trained_on_the_same(one: Root, other: Root) -> None:
    for split in ("train", "eval"):
        folders = [root.uri("Transform", "transformed_examples") / f"Split-{split}" for root in (one, other)]
        (ours, our_statistics), (theirs, their_statistics) = map(transformed, folders)
        assert ours == theirs
        # Equal except for the order of addition.
        assert len(our_statistics) == len(their_statistics) == 1
        np.testing.assert_allclose(our_statistics.pop(), their_statistics.pop(), rtol=1e-6)


def test_the_training_records_are_the_same(here: Root, there: Root) -> None:
    assert_trained_on_the_same(here, there)


def test_the_figures_are_the_same(here: Root, cluster: Cluster, tmp_path: Path) -> None:
    """Only the Evaluator runs on Flink, with the same model, because a fit depends on the order of the files."""
    there = Root(Path(here.config.root), Path(here.config.data.root))
    ours = load_results(str(here.uri("CaptchaEvaluator", "evaluation")))
    # Another confidence, so that the step is not cached; intervals follow from counts.
    flink = {"CaptchaEvaluator": cluster.beam(parallelism=4)}
    changed = ["--set", f"beam.steps={json.dumps(flink)}", "--set", "evaluator.confidence=0.9"]
    call("run", *there.options, *changed)
    run = history.latest_run(there.config.metadata_path)
    assert run is not None
    assert {step.node for step in run.steps if step.state == "done" and step.engine} == {"CaptchaEvaluator"}
    theirs = load_results(str(there.uri("CaptchaEvaluator", "evaluation")))
    assert ours.slices.keys() == theirs.slices.keys()
    pairs = [(ours.overall, theirs.overall)]
    for group, parts in ours.slices.items():
        assert parts.keys() == theirs.slices[group].keys()
        pairs += [(part, theirs.slices[group][name]) for name, part in parts.items()]
    for one, other in pairs:
        assert (one.count, one.only_candidate, one.only_production) == (other.count, other.only_candidate, other.only_production)
        assert one.candidate.value == other.candidate.value
    np.testing.assert_allclose(figures(ours.results), figures(theirs.results), atol=1e-6)
    np.testing.assert_array_equal(ours.results.confusion_matrix.toarray(), theirs.results.confusion_matrix.toarray())


def figures(results: Any) -> list[float]:
    positions = [accuracy.value for accuracy in results.position_accuracy]
    return [results.sequence_accuracy.value, results.expected_calibration_error, *positions]


def test_both_task_managers_worked(there: Root) -> None:
    (job,) = [job["jid"] for job in ask("/jobs/overview")["jobs"] if job["name"] == f"{NAME}-CaptchaExampleGen"]
    read: dict[str, int] = {}
    for vertex in ask(f"/jobs/{job}")["vertices"]:
        for manager in ask(f"/jobs/{job}/vertices/{vertex['id']}/taskmanagers")["taskmanagers"]:
            read[manager["taskmanager-id"]] = read.get(manager["taskmanager-id"], 0) + manager["metrics"]["read-records"]
    assert len(read) == 2
    assert min(read.values()) > 0


def test_a_drawn_span_is_the_same(tmp_path: Path, cluster: Cluster) -> None:
    spans = []
    for name, beam in (("here", []), ("there", ["--beam", profile(cluster, tmp_path)])):
        options = settings(f"data.root={tmp_path / name}", f"root={tmp_path}", "synth.count=1200", "synth.shard_size=50")
        call("data", "synth", *options, *beam)
        spans += list_spans(tmp_path / name)
    ours, theirs = spans
    assert ours.manifest.files == theirs.manifest.files
    assert all(len([*theirs.records(split)]) == theirs.manifest.counts[split] for split in SPLITS)
    assert sorted(path.name for path in ours.path.iterdir()) == sorted(path.name for path in theirs.path.iterdir())


def test_a_task_manager_killed_in_transform_changes_nothing(here: Root, data: Path, cluster: Cluster, tmp_path: Path) -> None:
    root = Root(tmp_path / "output", data)
    # One TaskManager can do this alone.
    flink = {"Transform": cluster.beam(parallelism=2)}
    options = [*root.options, "--set", f"beam.steps={json.dumps(flink)}"]
    known = {job["jid"] for job in ask("/jobs/overview")["jobs"]}
    program = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "run", *options]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            job = wait_for_work(f"{NAME}-Transform", known)
            cluster.kill("task-manager-1")
            printed, _ = process.communicate(timeout=500)
        finally:
            process.kill()
            cluster.start_task_manager(1)
            cluster.wait_for(2)
    assert process.returncode == 0, printed
    assert ask(f"/jobs/{job}")["state"] == "FINISHED"
    assert ask(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"], "the job was not disturbed"
    assert_trained_on_the_same(here, root)


def wait_for_work(name: str, known: set[str]) -> str:
    """Waits until a new job runs a task with Python; returns the ID of the job."""
    limit = time.monotonic() + 300
    while time.monotonic() < limit:
        for job in ask("/jobs/overview")["jobs"]:
            if job["name"] == name and job["jid"] not in known:
                vertices = ask(f"/jobs/{job['jid']}")["vertices"]
                if sum(vertex["status"] == "FINISHED" for vertex in vertices) > len(vertices) // 4:
                    return str(job["jid"])
        time.sleep(0.2)
    raise AssertionError(f"there is no job {name} at work")
