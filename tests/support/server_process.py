"""A real server: `captcha-pipeline serve` in a process of its own, on a free port."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT, TINY

_READY_SECONDS = 120
_SECONDS_TO_END = 10


@dataclass(frozen=True)
class Answer:
    """The answer to a request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error."""
        return str(self.json["error"])


@dataclass(frozen=True)
class ServerProcess:
    """A server that runs. `process` is its first process, which has workers if there are several."""

    process: subprocess.Popen[bytes]
    host: str
    port: int
    name: str

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60) -> Answer:
        """Sends a request on a connection of its own. A body that is neither None nor bytes is sent as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body), headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def stop(self) -> int:
        """Ends the server; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def served(serving_dir: Path, log: Path, *settings: str) -> Iterator[ServerProcess]:
    """Runs a server during the block, and ends it.

    Args:
      serving_dir: its newest version is loaded before the block, if there is one.
      log: a file for what the server prints.
      settings: for --set, such as "server.workers=2".
    """
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "serve", f"--config={TINY}"]
    command += [f"--set={option}" for option in (f"pusher.serving_dir={serving_dir}", "server.port=0", *settings)]
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True) as process:
        try:
            yield _started(process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            with contextlib.suppress(ProcessLookupError):  # its workers are in its group
                os.killpg(process.pid, signal.SIGKILL)


def _started(process: subprocess.Popen[bytes], log: Path) -> ServerProcess:
    end = time.monotonic() + _READY_SECONDS
    while True:
        if address := re.search(r"http://(\S+):(\d+)/v1/models/(\S+)\n", log.read_text()):
            host, port, name = address.groups()
            server = ServerProcess(process, host, int(port), name)
            with contextlib.suppress(OSError):
                server.request("GET", "/readyz")  # refused until the application has started
                return server
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)
