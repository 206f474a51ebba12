"""Locks between processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.base.errors import CaptchaPipelineError
from components.base.files import locked

HOLD = """
import sys, time
from pathlib import Path
from components.base.files import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(CaptchaPipelineError, match=f"process {holder.pid} has it"), locked(lock, "process {} has it"):
            pass
        holder.kill()
    with locked(lock, "busy"):
        assert lock.read_text() != str(holder.pid)
