"""A running `captcha-pipeline serve`, for benchmarks: its address, CPU time and memory."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ADDRESS: Final = re.compile(r"http://([\d.]+):(\d+)/v1/models/(\S+)\n")
_TICK: Final = os.sysconf("SC_CLK_TCK")
_KIB_PER_MIB: Final = 1024
_SECONDS: Final = 60  # to end


class Server:
    """A server, its address, and the name of its model."""

    def __init__(self, process: "subprocess.Popen[bytes]", host: str, port: int, model: str):
        self._process = process
        self.address = (host, port)
        self.model = model

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    @property
    def cpu_seconds(self) -> float:
        """The CPU time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def memory(self, field: str = "VmRSS") -> float:
        """Returns the resident memory in MiB: VmRSS now, VmHWM the largest so far."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        (kibibytes,) = re.findall(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        return int(kibibytes) / _KIB_PER_MIB


@contextlib.contextmanager
def running(*options: str) -> Iterator[Server]:
    """Starts a server on a free port, waits until a version answers, and stops it at the end.

    Args:
      options: of the command, such as --config FILE.
    """
    command = [sys.executable, "-c", "from pipeline.cli.main import main; main()", "serve", *options, "--set=server.port=0"]
    with tempfile.NamedTemporaryFile() as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield _started(process, Path(log.name))
        finally:
            process.terminate()
            process.wait(_SECONDS)


def _started(process: "subprocess.Popen[bytes]", log: Path) -> Server:
    while process.poll() is None:
        if found := _ADDRESS.search(log.read_text(errors="replace")):
            host, port, model = found.groups()
            with contextlib.suppress(urllib.error.URLError):  # refused until a version is loaded
                urllib.request.urlopen(f"http://{host}:{port}/readyz").close()
                return Server(process, host, int(port), model)
        time.sleep(0.2)
    raise SystemExit(f"The server ended: {log.read_text(errors='replace')}")
