"""Commands on a disk that is full or cannot be written: each exits with 1 and one message, and resumes after the repair."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from components.base.features import SPLITS
from components.data.spans import list_spans
from pipeline.runs import history
from tests.support.paths import TINY
from tests.support.small_disk import SmallDisk, small_disk

SMALL = ["--set", "synth.count=600", "--set", "trainer.epochs=2", "--set", "evaluator.min_sequence_accuracy=0"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", "60m") as disk:
        yield disk


def options(disk: SmallDisk) -> list[str]:
    return ["--config", str(TINY), "--set", f"root={disk.path}/output", "--set", f"data.root={disk.path}/data", *SMALL]


def assert_full(ended: "subprocess.CompletedProcess[str]", folder: Path) -> None:
    assert_told(ended, f"The disk is full: {folder}", "Free some space there and run the same command again")


def assert_told(ended: "subprocess.CompletedProcess[str]", *texts: str) -> None:
    """Asserts that the command failed with one message, and nothing else on standard error."""
    assert ended.returncode == 1, ended.stdout + ended.stderr
    # TensorFlow 2.16 logs this as an error on some processors, whenever it fits a model.
    (line,) = [line for line in ended.stderr.strip().splitlines() if "oneDNN supports DT_BOOL only on platforms" not in line]
    assert line.startswith("Error: ")
    for text in texts:
        assert text in line


@pytest.mark.long
def test_a_span_on_a_full_disk_is_complete_or_missing(disk: SmallDisk, tmp_path: Path) -> None:
    assert disk.call("data", "synth", *options(disk)).returncode == 0
    (first,) = list_spans(disk.seen / "data")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for i in range(300):
        # Noise, because it cannot be compressed.
        Image.effect_noise((40, 24), 60 + i / 10).save(inbox / f"{i // 9 % 3}{i // 3 % 3}_{i}.png")
    ingest = ("data", "ingest", str(inbox), "--pattern", "{label}_*.png", *options(disk))
    for room in (0, 100_000):
        for command in (("data", "synth", *options(disk)), ingest):
            disk.fill(room)
            ended = disk.call(*command)
            assert ended.returncode == 1
            assert "Traceback" not in ended.stderr
            assert_full(ended, disk.path / "data")
            assert list_spans(disk.seen / "data") == [first]
            left = {path.name for path in (disk.seen / "data").iterdir()} - {".index.sqlite", ".lock"}
            assert left == {first.path.name}, "nothing half is left"
            assert sum(1 for split in SPLITS for _ in first.records(split)) == sum(first.manifest.counts.values())
            disk.make_room()
    assert disk.call("data", "synth", *options(disk)).returncode == 0
    assert "300 pictures" in disk.call(*ingest).stdout
    assert [span.number for span in list_spans(disk.seen / "data")] == [1, 2, 3]


@pytest.mark.long
def test_a_run_resumes_after_its_disk_was_full(disk: SmallDisk, tmp_path: Path) -> None:
    root, serving = disk.path / "output", disk.seen / "output/tiny/serving/tiny"

    def run(fill_at: str = "", leaving: int = 0) -> "subprocess.CompletedProcess[str]":
        return disk.call("run", *options(disk), fill_at=fill_at, leaving=leaving)

    assert disk.call("data", "synth", *options(disk)).returncode == 0
    disk.fill(100_000)
    assert_full(run(), root)  # ML Metadata cannot make its tables
    disk.make_room()

    disk.fill(650_000)
    in_example_gen = run()
    assert_full(in_example_gen, root)
    assert "✓" not in in_example_gen.stdout
    disk.make_room()

    in_transform = run("✓ SchemaGate", 300_000)
    assert_full(in_transform, root)
    assert in_transform.stdout.strip().endswith("✓ SchemaGate")
    disk.make_room()

    in_trainer = run("epoch 1/", 300_000)
    assert_full(in_trainer, root)
    assert "epoch 1/" in in_trainer.stdout
    assert "epoch 2/" not in in_trainer.stdout
    disk.make_room()

    of_metadata = run("✓ Transform", 0)  # nothing can be recorded
    assert_full(of_metadata, root)
    disk.make_room()

    in_pusher = run("✓ CaptchaEvaluator", 1_000_000)
    assert "resuming after epoch 1 of 2" in in_pusher.stdout
    assert_full(in_pusher, root)
    assert in_pusher.stdout.strip().endswith("✓ CaptchaEvaluator")
    assert [path.name for path in serving.iterdir()] == [".push-lock"], "no half of a version, and none of its bytes"
    disk.make_room()

    done = run()
    assert done.returncode == 0, done.stderr
    assert len([path for path in serving.iterdir() if path.name.isdigit()]) == 1
    assert "Nothing to do" in disk.call("retrain", *options(disk)).stdout
    # A copy, because SQLite would follow the link through which `seen` leads to the disk.
    records = history.runs(shutil.copy(disk.seen / "output/tiny/metadata.sqlite", tmp_path))
    assert records[-1].is_complete
    assert "running" not in [step.state for record in records for step in record.steps]


@pytest.mark.long
def test_a_disk_that_cannot_be_written_is_reported(disk: SmallDisk) -> None:
    assert disk.call("data", "synth", *options(disk)).returncode == 0
    assert disk.run("chmod", "-R", "a-w", str(disk.path)).returncode == 0
    # Without the rights of root over the files of other users.
    ordinary = ("setpriv", "--bounding-set=-all")
    assert_told(disk.call("run", *options(disk), prefix=ordinary), "/output", "permission denied")
    assert_told(disk.call("data", "synth", *options(disk), prefix=ordinary), "/data", "Permission denied", "data.root")
    assert disk.run("mount", "-o", "remount,ro", str(disk.path)).returncode == 0
    assert_told(disk.call("retrain", *options(disk)), "/output", "read-only", "choose another folder")
    assert_told(disk.call("schedule", "--cron", "* * * * *", *options(disk)), "/output", "read-only")
    assert_told(disk.call("data", "synth", *options(disk)), "/data", "Read-only", "data.root")
