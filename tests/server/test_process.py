"""What a server does as a process: a full queue, a signal to end, several workers, and files that fail."""

import base64
import http.client
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.cli.terminal import STOPPED
from tests.support.exported_model import PICTURES
from tests.support.server_process import Answer, ServerProcess, served

pytestmark = pytest.mark.slow
MANY = 400


@pytest.fixture(scope="module")
def serving_dir(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    folder = tmp_path_factory.mktemp("process")
    shutil.copytree(model, folder / "serving" / "1")
    return folder / "serving"


def body(count: int = 1) -> dict[str, list[dict[str, str]]]:
    return {"instances": [{"b64": base64.b64encode(PICTURES[0]).decode()}] * count}


def read(server: ServerProcess, count: int = 1) -> Answer:
    return server.request("POST", f"/v1/models/{server.name}:predict", body(count))


def in_queue(server: ServerProcess) -> int:
    """Returns the number of pictures that wait."""
    page = server.request("GET", "/metrics").body.decode()
    (line,) = [line for line in page.splitlines() if line.startswith("captcha_queue_pictures ")]
    return int(float(line.split()[1]))


def test_a_full_queue_gives_status_429_and_says_when_to_come_again(serving_dir: Path, tmp_path: Path) -> None:
    settings = ("server.queue=8", "server.batch_size=64", "server.batch_wait_ms=1000")
    with served(serving_dir, tmp_path / "log", *settings) as server, ThreadPoolExecutor(20) as clients:
        assert read(server, 8).status == 200  # so the next batch waits a second for 8 pictures
        answers = list(clients.map(lambda _: read(server, 7), range(20)))
        refused = [answer for answer in answers if answer.status == 429]
        assert {answer.status for answer in answers} == {200, 429}
        assert all(int(answer.headers["Retry-After"]) >= 1 and "queue is full" in answer.error for answer in refused)
        assert read(server, 8).status == 200
        too_many = read(server, 9)
        assert too_many.status == 413
        assert "at most 8 pictures" in too_many.error
        assert read(server).status == 200
        assert in_queue(server) == 0


@pytest.fixture(params=[1, 2], ids=["one worker", "two workers"])
def draining(request: pytest.FixtureRequest, serving_dir: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    settings = (f"server.workers={request.param}", "server.drain_seconds=20", "server.batch_wait_ms=1000")
    with served(serving_dir, tmp_path / "log", *settings) as server:
        yield server


def test_a_server_that_is_to_end_answers_open_requests(draining: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: read(draining, 64), range(8)))  # reaches both workers, which then wait a second for 64 pictures
        answers = [clients.submit(read, draining, 3) for _ in range(5)]
        time.sleep(0.3)
        draining.process.send_signal(signal.SIGTERM)
        assert [answer.result().status for answer in answers] == [200] * 5
    assert draining.process.wait(60) == STOPPED


def test_a_server_that_is_to_end_takes_no_new_connections(draining: ServerProcess) -> None:
    connection = http.client.HTTPConnection(draining.host, draining.port, timeout=60)
    connection.putrequest("POST", f"/v1/models/{draining.name}:predict")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    time.sleep(0.3)
    draining.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 5
    while True:  # the request is open, so the server still runs
        try:
            socket.create_connection((draining.host, draining.port), timeout=5).close()
        except ConnectionRefusedError:
            break
        assert time.monotonic() < end
        time.sleep(0.05)
    assert draining.process.poll() is None
    connection.send(b" " * 998 + b"}")
    assert connection.getresponse().status == 400
    connection.close()
    assert draining.process.wait(60) == STOPPED


def test_a_server_does_not_wait_longer_than_drain_seconds(serving_dir: Path, tmp_path: Path) -> None:
    with (
        served(serving_dir, tmp_path / "log", "server.drain_seconds=1", "server.body_seconds=60") as server,
        socket.create_connection((server.host, server.port)) as connection,
    ):
        connection.sendall(b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        time.sleep(0.3)
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 30  # and not the minute that the client could take


def test_workers_share_a_port_and_their_metrics(serving_dir: Path, tmp_path: Path) -> None:
    with served(serving_dir, tmp_path / "log", "server.workers=2") as server:
        before = _children(server)
        assert len(before) == 2
        with ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(lambda _: read(server), range(MANY)))
        assert all(answer.status == 200 for answer in answers)
        counted = server.request("GET", "/metrics").body.decode()
        assert f'captcha_pictures_total{{valid="true",version="1"}} {MANY}.0' in counted
        os.kill(before[0], signal.SIGKILL)  # another one takes its place
        end = time.monotonic() + 60
        while len(now := _children(server)) < 2 or before[0] in now:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert read(server).status == 200
        assert server.stop() == STOPPED


def _children(server: ServerProcess) -> list[int]:
    """Returns the process ids of the workers, without Python's resource tracker."""
    found = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_bad_request_does_not_cost_others_in_its_batch_their_answers(serving_dir: Path, tmp_path: Path) -> None:
    good = {"signature_name": "serving_examples", "instances": [{"b64": ""}]}
    bad = {"signature_name": "serving_examples", "instances": [{"b64": base64.b64encode(b"\xff no example").decode()}]}
    with served(serving_dir, tmp_path / "log", "server.batch_wait_ms=500") as server, ThreadPoolExecutor(8) as clients:
        path = f"/v1/models/{server.name}:predict"
        assert read(server, 8).status == 200  # so the next batch waits for 8
        answers = list(clients.map(lambda number: server.request("POST", path, bad if number % 4 == 3 else good), range(8)))
    assert [answer.status for answer in answers] == [200, 200, 200, 400] * 2
