"""How soon the command answers: its help, and `predict` with one file.

    uv run python -m benchmarks.start_up

Expected: help in at most 0.5 s, `predict` in at most 6 s, of which about three quarters are the import of TensorFlow. A minute on
2 cores, and another where the small pipeline run that makes the model is not there yet.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks import served
from benchmarks.results import record

RUNS: Final = 5
_COMMAND: Final = (sys.executable, "-c", "from pipeline.cli.main import main; main()")


def measure(*words: str) -> list[str]:
    """Runs a command once to fill the caches, then RUNS times; returns the medians of its wall and CPU time, and the longest wall time."""
    # Without it Python compiles every module anew in every process: an installation that is used has compiled them once.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    walls, cpus = [], []
    for _ in range(1 + RUNS):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(words, env=environment, check=True, capture_output=True)
        walls.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [f"{statistics.median(walls[1:]):.2f} s", f"{max(walls[1:]):.2f} s", f"{statistics.median(cpus[1:]):.2f} s", f"{walls[0]:.1f} s"]


def main() -> None:
    model = served.pushed_model()
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        picture.write_bytes(served.pictures(1)[0])
        predict = ("predict", *served.options(), "--model", str(model), str(picture))
        rows = [
            ["captcha-pipeline --help", *measure(*_COMMAND, "--help")],
            ["captcha-pipeline runs", *measure(*_COMMAND, "runs", *served.options())],
            [
                "captcha-pipeline predict picture.png",
                *measure(*_COMMAND, *predict),
            ],
            ["for comparison: import tensorflow", *measure(sys.executable, "-c", "import tensorflow")],
        ]
    record(
        "start_up",
        "A command in a new process, from its start to its end",
        ["command", "median", "longest", "CPU time, median", "before that, once"],
        rows,
        [f"{RUNS} runs each. The run before them may have to read the files from disk, and to compile modules after an installation."],
    )


if __name__ == "__main__":
    main()
