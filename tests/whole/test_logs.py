"""Log files, and the loading of TensorFlow in separate processes, because each process can load it only once."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.logs import rotate
from tests.support.paths import ROOT
from tests.support.pid_namespace import pid_namespace

pytestmark = pytest.mark.slow

# A library that writes to standard error while it is loaded, as C++ does; the lines of a test follow.
LIBRARY = """
import os, types
os.write(2, b"I0000 00:00:00 chatter\\nE0000 00:00:00 something is wrong\\n")
config = types.SimpleNamespace(list_physical_devices=list)
"""
LOAD = "from pipeline.logs import load_tensorflow; load_tensorflow(); import os; os.write(2, b'later')"


def test_tensorflow_loads_without_keras_and_keras_loads_later():
    lines = (
        "from pipeline.logs import load_tensorflow, silence",
        "silence()",
        "load_tensorflow(with_keras=False)",
        "import sys, tensorflow as tf",
        "assert not any(name.partition('.')[0] == 'keras' for name in sys.modules)",
        "import keras",
        "assert tf.keras.layers.Dense(2)(tf.zeros([3, 4])).shape == (3, 2)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_growing_log_is_rotated_and_its_oldest_part_is_removed(tmp_path: Path):
    lines = (
        "import logging, sys",
        "from pathlib import Path",
        "from pipeline.logs import log_to",
        "log_to(Path(sys.argv[1]))",
        "for number in range(55):",
        "    logging.getLogger('talker').info('%d %s', number, 'x' * 1_000_000)",
    )
    log = tmp_path / "new" / "run.log"
    done = subprocess.run([sys.executable, "-c", "\n".join(lines), str(log)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in log.parent.iterdir()) == ["run.log", "run.log.1", "run.log.2", "run.log.3"]
    assert all(path.stat().st_size <= 10_000_000 for path in log.parent.iterdir())
    kept = [int(line.split()[4]) for number in (".3", ".2", ".1", "") for line in Path(f"{log}{number}").read_text().splitlines()]
    assert kept == list(range(kept[0], 55)), "in order, without a gap"
    assert kept[0] > 0
    assert len(kept) > 25
    # An existing log is continued.
    before = log.read_text()
    more = (*lines[:4], "logging.getLogger('talker').info('once more')")
    subprocess.run([sys.executable, "-c", "\n".join(more), str(log)], check=True)
    assert log.read_text().startswith(before)
    assert log.read_text().endswith("once more\n")


def test_a_log_is_renamed_when_it_is_full(tmp_path: Path):
    log = tmp_path / "retrain.log"
    rotate(log)
    assert list(tmp_path.iterdir()) == []
    log.write_text("short")
    rotate(log)
    assert log.read_text() == "short"
    for number in range(5):
        log.write_text(f"{number}" + " " * 10_000_000)
        rotate(log)
        assert not log.exists() or log.read_text() == ""
    assert [Path(f"{log}.{number}").read_text().strip() for number in (1, 2, 3)] == ["4", "3", "2"]
    assert not Path(f"{log}.4").exists()


def load(folder: Path, *lines: str, within: Sequence[str] = ()) -> "subprocess.CompletedProcess[bytes]":
    (folder / "tensorflow.py").write_text("\n".join([LIBRARY, *lines]))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run([*within, sys.executable, "-c", LOAD], capture_output=True, env=environment, timeout=60)


def test_chatter_is_left_out_and_the_rest_is_shown_in_order(tmp_path: Path) -> None:
    done = load(tmp_path)
    assert (done.returncode, done.stderr) == (0, b"E0000 00:00:00 something is wrong\nlater")


def test_the_output_of_a_library_before_an_abort_is_shown(tmp_path: Path) -> None:
    done = load(tmp_path, "os.write(2, b'terminate called: no such instruction')", "os.abort()")
    assert done.returncode == -signal.SIGABRT
    assert done.stderr == b"E0000 00:00:00 something is wrong\nterminate called: no such instruction"


def test_the_output_before_an_abort_is_shown_in_a_container(tmp_path: Path) -> None:
    """The first process of a container ends all other processes when it ends."""
    done = load(tmp_path, "os.write(2, b'terminate called: no such instruction')", "os.abort()", within=pid_namespace())
    assert done.returncode
    assert done.stderr.endswith(b"E0000 00:00:00 something is wrong\nterminate called: no such instruction")


def test_a_library_that_cannot_be_loaded_is_reported(tmp_path: Path) -> None:
    done = load(tmp_path, "raise ImportError('libcudart.so.99 is missing')")
    assert done.returncode == 1
    assert done.stderr.startswith(b"E0000 00:00:00 something is wrong\nTraceback")
    assert b"libcudart.so.99 is missing" in done.stderr
