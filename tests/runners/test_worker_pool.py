"""The pool of Python workers. Here Beam's own runner requests workers, as Flink does in tests/runners/test_flink.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apache_beam as beam
import grpc
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import ExternalEnvironment

pytestmark = pytest.mark.long


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port: int = taken.getsockname()[1]
    return port


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Yields a pool and its port."""
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "pipeline.runners.beam.worker_pool", str(port)], stdout=log, stderr=log)
    try:
        grpc.channel_ready_future(grpc.insecure_channel(f"127.0.0.1:{port}")).result(timeout=60)
        yield process, port
    finally:
        process.kill()
        process.wait()


def work_done_in(port: int, output: Path) -> tuple[int, int, bool]:
    """Runs a job in a worker of the pool; returns its process ID, its parent's ID, and whether a library of the steps was loaded."""

    def describe(_: int) -> str:  # a nested function is sent by value: the worker has no module of the tests
        return json.dumps([os.getpid(), os.getppid(), "tensorflow_model_analysis" in sys.modules])

    with beam.Pipeline(FnApiRunner(ExternalEnvironment(f"localhost:{port}"))) as pipeline:
        _ = pipeline | beam.Create([1]) | beam.Map(describe) | beam.io.WriteToText(str(output), shard_name_template="")
    pid, parent, imported = json.loads(output.read_text(encoding="utf-8"))
    return pid, parent, imported


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return False


def test_workers_are_forked_from_a_process_with_all_imports(pool, tmp_path: Path) -> None:
    process, port = pool
    first, parent, imported = work_done_in(port, tmp_path / "first")
    second, parent_of_second, _ = work_done_in(port, tmp_path / "second")
    assert imported
    assert parent == parent_of_second != process.pid
    assert first != second
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not any(map(is_alive, (first, second)))
    limit = time.monotonic() + 30
    while is_alive(parent):  # it notices that the pool has ended
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_a_pool_whose_workers_cannot_start_ends(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name", encoding="utf-8")
    # As if TensorFlow could not be loaded, which the pool itself does not need.
    start = f"from pipeline.runners.beam import worker_pool; worker_pool._IMPORTED.append('broken'); worker_pool.main({free_port()})"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert "Cannot import broken: ModuleNotFoundError: No module named 'nothing_of_this_name'" in ended.stderr
    assert "a module that all workers need cannot be imported" in ended.stderr
    assert "Traceback" not in ended.stderr
