"""A disk of a few megabytes that can be filled: a tmpfs in its own namespace, which needs no special rights."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# Keeps the disk mounted until its standard input ends.
HOLD = """
import subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + sys.argv[2], "tmpfs", sys.argv[1]], check=True)
print("mounted", flush=True)
sys.stdin.read()
"""
MAIN = "from pipeline.cli.main import main; main()"


class SmallDisk:
    """A mounted disk.

    Attributes:
        path: the folder, as commands on the disk see it.
        seen: the same folder, as this process sees it.
    """

    def __init__(self, path: Path, holder: int):
        self.path = path
        self.seen = Path(f"/proc/{holder}/root") / path.relative_to("/")
        self._enter = ["nsenter", "--user", "--mount", "--preserve-credentials", f"--wd={ROOT}", "--target", str(holder), "--"]

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs a program on the disk."""
        return subprocess.run([*self._enter, *command], check=False, capture_output=True, text=True)

    def call(
        self, *arguments: str, fill_at: str = "", leaving: int = 0, prefix: tuple[str, ...] = ()
    ) -> "subprocess.CompletedProcess[str]":
        """Runs captcha-pipeline on the disk; fills the disk when a printed line contains the text `fill_at`."""
        command = [*self._enter, *prefix, sys.executable, "-u", "-c", MAIN, *arguments]
        lines = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for line in process.stdout:
                lines.append(line)
                if fill_at and fill_at in line:
                    self.fill(leaving)
            # Standard error is short enough for the buffer of the pipe.
            return subprocess.CompletedProcess(command, process.wait(), "".join(lines), process.stderr.read())

    def fill(self, leaving: int = 0) -> None:
        """Fills the disk except for `leaving` bytes."""
        with open(self.seen / "ballast", "ab", buffering=0) as file, contextlib.suppress(OSError):
            file.write(bytes(max(0, self.free - leaving)))

    def make_room(self) -> None:
        (self.seen / "ballast").unlink()

    @property
    def free(self) -> int:
        """The free space in bytes."""
        at = os.statvfs(self.seen)
        return at.f_bavail * at.f_frsize


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[SmallDisk]:
    """Mounts a disk of a size such as 20m on a folder. Skips the test if the kernel does not allow it."""
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
