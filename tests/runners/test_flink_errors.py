"""Runs on a real Flink that lacks something fail soon, with one sentence, and leave no process. `make test-flink` runs these tests."""

import contextlib
import os
import signal
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from deploy.flink.cluster import Cluster
from tests.support.command import call
from tests.support.flink_run import JOB_SERVER, MARKS, Root, profile, running, settings

pytestmark = MARKS


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("flink")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    data = tmp_path_factory.mktemp("data")
    call("data", "synth", *settings(f"data.root={data}", "synth.count=60"))
    return Root(tmp_path_factory.mktemp("output"), data)


def fails(root: Root, beam: str) -> str:
    """Runs the pipeline, which must fail at once with one sentence and leave no process; returns its output."""
    program = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "run", *root.options, "--beam", beam]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert printed.count("Error:") == 1, printed
    assert "Traceback" not in printed
    # Children of this process are from earlier runs.
    left = [path for path in Path("/proc").glob("[0-9]*") if str(JOB_SERVER) in command(path) and parent(path) != os.getpid()]
    assert not left, [command(path) for path in left]
    return " ".join(printed.split())


def parent(process: Path) -> int:
    with contextlib.suppress(OSError):
        return int((process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    return 0


def command(process: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_text(encoding="utf-8").split("\0")
    return []


def test_a_missing_flink_is_named(root: Root, cluster: Cluster, tmp_path: Path) -> None:
    said = fails(root, profile(cluster, tmp_path, endpoint="127.0.0.1:9"))
    assert "Flink does not answer at 127.0.0.1:9 (" in said
    assert "--set beam.endpoint" in said


def test_too_few_slots_are_named(root: Root, cluster: Cluster, tmp_path: Path) -> None:
    assert "has 4 slots on 2 TaskManagers, but beam.parallelism is 64" in fails(root, profile(cluster, tmp_path, parallelism=64))


def test_a_job_server_of_another_beam_is_named(root: Root, cluster: Cluster, tmp_path: Path) -> None:
    jar = tmp_path / "job-server.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("org/apache/beam/sdk/sdk.properties", "# Beam\nversion=2.10.0\n")
    said = fails(root, profile(cluster, tmp_path, args=[f"--flink_job_server_jar={jar}"]))
    assert f"{jar} is of Beam 2.10.0, but this environment has Beam" in said


def test_a_missing_pool_is_named(root: Root, cluster: Cluster, tmp_path: Path) -> None:
    said = fails(root, profile(cluster, tmp_path, environment={"type": "EXTERNAL", "config": "localhost:50008"}))
    assert "no pool of Python workers answers at localhost:50008" in said


def test_workers_without_the_package_are_named(root: Root, cluster: Cluster, tmp_path: Path) -> None:
    """Beam's own pool, in an environment with all libraries but without this project."""
    bare = tmp_path / "bare"
    venv.create(bare)
    (site,) = bare.glob("lib/python*/site-packages")
    # This project is installed by a .pth file, and Python does not read .pth files in a folder that a .pth file names.
    (site / "libraries.pth").write_text(str(next(path for path in map(Path, sys.path) if path.name == "site-packages")), encoding="utf-8")
    environment = os.environ | {"PATH": f"{bare / 'bin'}:{os.environ['PATH']}"}
    beams_pool = [str(bare / "bin" / "python"), "-m", "apache_beam.runners.worker.worker_pool_main", "--service_port=50009"]
    with subprocess.Popen(beams_pool, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True) as pool:
        try:
            grpc.channel_ready_future(grpc.insecure_channel("localhost:50009")).result(timeout=60)
            said = fails(root, profile(cluster, tmp_path, environment={"type": "EXTERNAL", "config": "localhost:50009"}))
        finally:
            os.killpg(pool.pid, signal.SIGKILL)
    assert "its workers' Python has no module pipeline. Install this project there" in said
