"""A disk of a few megabytes that can be filled: a tmpfs in a namespace of its own, for which no rights are needed."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Ends, and the disk with it, when its standard input does.
HOLD = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[2], "tmpfs", sys.argv[1]], check=True)
print("mounted", flush=True)
sys.stdin.read()
"""
MAIN = "from pipeline.cli.main import main; main()"


class SmallDisk:
    """`path` is the folder for the commands that run on it; this process sees it as `seen`."""

    def __init__(self, path: Path, holder: int):
        self.path = path
        self.seen = Path(f"/proc/{holder}/root") / path.relative_to("/")
        self._enter = ["nsenter", "--user", "--mount", "--preserve-credentials", f"--wd={ROOT}", "--target", str(holder), "--"]

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs a program on it."""
        return subprocess.run([*self._enter, *command], check=False, capture_output=True, text=True)

    def call(
        self, *arguments: str, fill_at: str = "", leaving: int = 0, prefix: tuple[str, ...] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Runs captcha-pipeline on it; once that prints a line with the text `fill_at`, the disk is filled."""
        command = [*self._enter, *prefix, sys.executable, "-u", "-c", MAIN, *arguments]
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                lines.append(line)
                if fill_at and fill_at in line:
                    self.fill(leaving)
            # It prints little there: a pipe holds it.
            return subprocess.CompletedProcess(command, process.wait(), "".join(lines), process.stderr.read())

    def fill(self, leaving: int = 0) -> None:
        """Leaves room for that many bytes."""
        with open(self.seen / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
            file.write(bytes(max(0, self.free - leaving)))

    def make_room(self) -> None:
        (self.seen / "ballast").unlink()

    @property
    def free(self) -> int:
        """Bytes."""
        at = os.statvfs(self.seen)
        return at.f_bavail * at.f_frsize


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mounts one on a folder, of a size such as 20m. Skips the test where the kernel does not allow it."""
    path.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", HOLD, str(path), size]
    try:
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    with holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"no namespaces here: {holder.stderr.read().strip()}")
        yield SmallDisk(path, holder.pid)
