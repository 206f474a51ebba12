"""Loading TensorFlow, in processes of their own: it can be done once in each."""

import subprocess
import sys
from pathlib import Path

from pipeline.quiet import rotate


def test_tensorflow_without_keras_and_keras_later():
    lines = (
        "from pipeline.quiet import load_tensorflow, silence",
        "silence()",
        "load_tensorflow(with_keras=False)",
        "import sys, tensorflow as tf",
        "assert not any(name.partition('.')[0] == 'keras' for name in sys.modules)",
        "import keras",
        "assert tf.keras.layers.Dense(2)(tf.zeros([3, 4])).shape == (3, 2)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_log_that_grows_is_cut_and_the_oldest_of_it_goes(tmp_path: Path):
    lines = (
        "import logging, sys",
        "from pathlib import Path",
        "from pipeline.quiet import log_to",
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
    # What is there already is gone on with.
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
