"""The files that gc removes and keeps, on runs of a small graph with the step names of the pipeline: real ML Metadata, real TFX."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_metadata.proto import metadata_store_pb2 as pb

from components.base.errors import CaptchaPipelineError
from components.base.files import locked
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.garbage import Garbage, collect
from pipeline.runs import history
from pipeline.runs.lineage import lineage
from pipeline.runs.metadata import open_store
from pipeline.runs.outcomes import retrainings
from tests.support.command import call
from tests.support.paths import TINY
from tests.support.small_disk import small_disk
from tests.support.small_graph import run, search, stopped, stopped_early

pytestmark = pytest.mark.slow

# Collects repeatedly. Each time, the process kills itself before the removal or renaming with the number on its standard input.
KILLED = """
import os, signal, sys
from pipeline.config.loading import load_config
from pipeline.garbage import collect

def die_before(number):
    left = [number]
    def hear(event, _):
        if event in ("os.remove", "os.rmdir", "os.rename"):
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
    sys.addaudithook(hear)

for line in sys.stdin:
    if not (child := os.fork()):
        die_before(int(line))
        collect(load_config(sys.argv[1], sys.argv[2:]))
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(TINY, [f"root={tmp_path / 'output'}", f"data.root={tmp_path / 'data'}", "gc.keep_runs=1"])


def withdraw(config: Config, version: str) -> None:
    shutil.rmtree(Path(config.serving_dir, version))


def tree(folder: str | Path) -> dict[str, bytes]:
    """Returns the content of each file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def names(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).exists() else []


def going(garbage: Garbage) -> list[str]:
    return sorted(leftover.name for leftover in garbage.leftovers)


def states(record: history.RunRecord) -> dict[str, str]:
    return {step.node: step.state for step in record.steps}


def test_nothing_is_removed_before_the_first_run(config: Config) -> None:
    assert collect(config) == Garbage()
    assert not Path(config.root).exists()
    Path(config.log_dir, "mine").mkdir(parents=True)
    assert collect(config) == Garbage()
    assert Path(config.log_dir, "mine").is_dir()


def test_cached_outputs_are_kept_and_unneeded_outputs_are_removed(config: Config) -> None:
    first, second, third = (run(config, name) for name in "123")
    withdraw(config, "1")
    told = retrainings(config)
    planned = collect(config, dry_run=True)
    before = tree(config.root)
    assert collect(config, dry_run=True) == planned
    assert tree(config.root) == before, "a dry run removes nothing"

    number = {step.node: step.execution_id for step in first.steps}
    assert going(planned) == sorted(
        [f"artifacts/{step}/*/{number[step]}" for step in ("Trainer", "CaptchaEvaluator", "AtomicPusher")]
        # The other fits are complete, and their models are stored.
        + ["checkpoints/1", "checkpoints/2", "checkpoints/3", "logs/1", f"reports/evaluation-{number['CaptchaEvaluator']}"]
    )
    assert collect(config) == planned
    assert going(collect(config)) == [], "once"

    for kept in (second, third):
        for step in kept.steps:
            assert all(Path(uri).is_dir() for uris in step.outputs.values() for uri in uris), step
    assert set(states(run(config, "3")).values()) == {"cached"}
    # The history keeps every figure; only the report is removed.
    assert [retraining.report is None for retraining in retrainings(config)] == [True, False, False]
    assert [(it.sets, it.pictures, it.decision) for it in retrainings(config)] == [(it.sets, it.pictures, it.decision) for it in told]
    assert f"evaluation-{number['CaptchaEvaluator']}" not in Path(config.report_dir, "trend.html").read_text()


def test_the_inputs_of_a_served_version_are_kept(config: Config) -> None:
    for name in "123":
        run(config, name, window=name)
    withdraw(config, "2")
    # As after a rollback: a copy is served, and the version itself may have been removed.
    withdraw(config, "1")
    copy = Path(config.serving_dir, "4", "assets.extra")
    copy.mkdir(parents=True)
    (copy / "rollback.json").write_text('{"version": 1}')
    (copy.parent / "saved_model.pb").write_text("a model")
    collect(config)
    assert [step.removed for step in lineage(config.metadata_path, "1").steps] == [False] * 4
    assert all(Path(uri).is_dir() for step in lineage(config.metadata_path, "1").steps for uris in step.outputs.values() for uri in uris)
    assert [step.removed for step in lineage(config.metadata_path, "2").steps] == [True] * 4
    options = ["--config", str(TINY), "--set", f"root={config.root}"]
    assert call("runs", "--version", "2", *options).count("removed by gc") == 4
    assert "removed by gc" not in call("runs", "--version", "1", *options)


def test_removed_outputs_are_made_again_by_a_run_that_needs_them(config: Config) -> None:
    first = run(config, "1", window="1")
    outputs = (("CaptchaExampleGen", "examples"), ("CaptchaExampleGen", "quarantine"), ("DriftGate", "anomalies"), ("Trainer", "model"))

    def content(record: history.RunRecord) -> list[dict[str, bytes]]:
        return [tree(record.artifact_uri(*output) or "") for output in outputs]

    made = content(first)
    run(config, "2", window="2")
    withdraw(config, "1")
    collect(config)
    # The folder of the gate's only output stays, with the figures: only the mark in ML Metadata stops TFX from reusing it.
    assert [list(files) for files in content(first)] == [[], ["summary.json"], ["drift.json"], []]
    again = run(config, "1", window="1")
    assert set(states(again).values()) == {"done"}
    assert content(again) == made
    assert set(states(run(config, "2", window="2")).values()) == {"cached"}


def test_the_files_of_an_unfinished_run_are_kept(config: Config) -> None:
    run(config, "1")
    stopped(config, "2")
    with pytest.raises(ValueError, match="stopped"):
        search(config, "unfinished", stops=True)
    search(config, "finished")
    stopped(config, "3")
    collect(config.model_copy(update={"gc": config.gc.model_copy(update={"keep_runs": 4})}))
    assert names(config.checkpoint_dir) == ["2", "3"]
    assert names(config.search_dir) == ["unfinished"]
    stopped_early(config)
    collect(config)
    assert names(config.checkpoint_dir) == ["2", "3"], "nothing has been completed since: the next run may take up either"
    assert names(config.search_dir) == ["unfinished"]
    run(config, "5")
    stopped(config, "3")
    collect(config)
    assert names(config.checkpoint_dir) == ["3"]
    assert names(config.log_dir) == ["1", "3", "5"]
    assert names(config.search_dir) == []
    assert states(run(config, "3"))["CaptchaExampleGen"] == "cached"
    assert "checkpoints/3" in going(collect(config))


def test_the_leftovers_of_killed_steps_are_removed(config: Config) -> None:
    run(config, "1")
    stopped(config, "2")
    (last,) = [step for step in history.runs(config.metadata_path)[-1].steps if step.node == "Trainer"]
    # TFX removes the output of a failed step, but not of a killed step.
    half = Path(config.pipeline_root, "Trainer", "model", str(last.execution_id))
    working = Path(config.pipeline_root, "Trainer", ".system", "executor_execution", str(last.execution_id), ".temp")
    for folder in (half, working):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "half").write_bytes(bytes(100_000))
    garbage = collect(config)
    assert garbage.size >= 200_000
    assert not half.exists()
    assert not working.exists()


def test_the_reported_size_is_the_freed_disk_space(config: Config) -> None:
    for name in "12":
        run(config, name)
    withdraw(config, "1")

    def used() -> int:
        return int(subprocess.run(["du", "-sB1", config.root], check=True, capture_output=True, text=True).stdout.split()[0])

    before = used()
    garbage = collect(config)
    # The trend page is new, and folders with fewer entries may shrink.
    page = Path(config.report_dir, "trend.html").stat().st_blocks * 512
    assert garbage.size == pytest.approx(before - used() + page, abs=4096 * len(garbage.leftovers))
    assert garbage.size > 10_000


def test_nothing_is_removed_while_a_run_is_at_work(config: Config) -> None:
    run(config, "1")
    before = tree(config.root)
    with locked(Path(config.run_lock), "busy"):
        for dry_run in (True, False):
            with pytest.raises(CaptchaPipelineError, match=f"A run \\(process {os.getpid()}\\) is at work"):
                collect(config, dry_run=dry_run)
    assert {**tree(config.root), "tiny/run.lock": b""} == {**before, "tiny/run.lock": b""}


def test_outside_and_unknown_files_are_kept(config: Config, tmp_path: Path) -> None:
    first = run(config, "1")
    run(config, "2")
    withdraw(config, "1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("not ours")
    data = Path(config.data.root, "span-000001")
    data.mkdir(parents=True)
    (data / "file").write_text("ours, but no run's")

    # Moved to another disk, with a link left behind.
    model = Path(first.artifact_uri("Trainer", "model") or "")
    model.rename(outside / "model")
    model.symlink_to(outside / "model")
    (logs := Path(config.log_dir, "1")).rename(outside / "logs")
    logs.symlink_to(outside / "logs")
    # A link in a folder that is removed.
    Path(first.artifact_uri("CaptchaEvaluator", "evaluation") or "", "link").symlink_to(outside)
    unknown = [
        Path(config.pipeline_root, "notes.txt"),
        Path(config.pipeline_root, "Trainer", "model", "999"),
        Path(config.pipeline_root, "Trainer", "model", "mine"),
        Path(config.pipeline_root, "Other", "model", model.name),
        Path(config.log_dir, "mine"),
        Path(config.checkpoint_dir, "mine"),
        Path(config.report_dir, "notes.txt"),
    ]
    for path in unknown:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours") if path.suffix else path.mkdir()
    before = tree(outside) | tree(config.data.root) | tree(config.serving_dir)

    assert set(collect(config, dry_run=True).unknown) == {*unknown, model, logs}
    options = ["--config", str(TINY), "--set", f"root={config.root}", "--set", "gc.keep_runs=1"]
    told = call("gc", "--dry-run", *options)
    assert all(str(path) in told for path in unknown)
    assert "checkpoints/1" in told
    assert "would be removed" in told
    assert "would be removed" not in call("gc", *options)
    assert tree(outside) | tree(config.data.root) | tree(config.serving_dir) == before
    assert all(path.exists() for path in unknown)
    assert model.is_symlink()
    assert not Path(first.artifact_uri("CaptchaEvaluator", "evaluation") or "", "metrics").exists()


def test_a_moved_output_folder_is_collected(config: Config, tmp_path: Path) -> None:
    for name in "12":
        run(config, name)
    withdraw(config, "1")
    planned = going(collect(config, dry_run=True))
    Path(config.root).rename(tmp_path / "moved")
    moved = config.model_copy(update={"root": str(tmp_path / "moved")})
    assert going(collect(moved)) == planned
    assert going(collect(moved)) == []


def test_gc_works_on_a_full_disk(config: Config, tmp_path: Path) -> None:
    for name in "12":
        run(config, name, window=name)
    withdraw(config, "1")
    collect(config, dry_run=True)  # leaves its lock file, as a run does
    with small_disk(tmp_path / "disk", "4m") as disk:
        shutil.copytree(config.root, disk.seen / "output")
        disk.fill()
        assert disk.free == 0
        ended = disk.call("gc", "--config", str(TINY), "--set", f"root={disk.path}/output", "--set", "gc.keep_runs=1")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert disk.free > 100_000
        collect(config)
        assert tree(disk.seen / "output/tiny/artifacts") == tree(config.pipeline_root)


@pytest.fixture
def killed(config: Config) -> Iterator["subprocess.Popen[str]"]:
    overrides = [f"root={config.root}", f"data.root={config.data.root}", "gc.keep_runs=1"]
    command = [sys.executable, "-c", KILLED, str(TINY), *overrides]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TINY.parents[1])
    yield process
    process.kill()
    process.communicate()


@pytest.mark.long
def test_a_kill_at_any_moment_does_no_harm(config: Config, killed: "subprocess.Popen[str]", tmp_path: Path) -> None:
    run(config, "1", window="1")
    with pytest.raises(ValueError, match="stopped"):
        search(config, "unfinished", stops=True)
    run(config, "2", window="2")
    withdraw(config, "1")
    template = tmp_path / "template"
    shutil.copytree(config.root, template)
    artifacts = tree(config.pipeline_root)

    def collect_until(number: int) -> bool:
        """Restores the template and runs gc on it; returns whether gc completed."""
        shutil.rmtree(config.root)
        shutil.copytree(template, config.root)
        assert killed.stdin is not None
        assert killed.stdout is not None
        print(number, file=killed.stdin, flush=True)
        status = int(killed.stdout.readline())
        assert os.WIFSIGNALED(status) or status == 0
        return status == 0

    assert collect_until(1_000_000)
    complete = tree(config.pipeline_root).keys()
    for number in itertools.count():
        done = collect_until(number)
        store = open_store(config.metadata_path)
        assert store is not None
        for artifact in store.get_artifacts():
            below = f"{Path(artifact.uri).relative_to(config.pipeline_root)}/"
            whole = {path: content for path, content in artifacts.items() if path.startswith(below)}
            there = {path: content for path, content in tree(config.pipeline_root).items() if path.startswith(below)}
            # TFX reuses an output that is not marked as deleted if its folder exists.
            assert artifact.state == pb.Artifact.DELETED or not Path(artifact.uri).exists() or there == whole, (number, below)
        assert names(config.search_dir) in ([], ["unfinished"], [".going-unfinished"])
        assert Path(config.search_dir, "unfinished", "search").is_dir() == ("unfinished" in names(config.search_dir)), "whole or not there"
        if number % 3 == 0:
            assert run(config, "1", window="1", version="3").is_complete
            collect_until(number)
        collect(config)
        assert tree(config.pipeline_root).keys() == complete
        assert names(config.search_dir) == []
        if done:
            break
    assert number > 10
