"""Start-up time of the command line: its help, `predict` with one file, and a `run` to which nothing has changed.

    uv run python -m benchmarks.start_up

Expected: help in at most 0.5 s, `run` in 2 s, `predict` in at most 9 s, most of which is the import of TensorFlow. One
minute on 2 cores, and one more if the small pipeline run that makes the model is still missing.
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
    """Runs a command once to fill the caches, then RUNS times. Returns cells: median and longest time, median CPU time, first time."""
    # With this variable Python compiles every module in every process; a used installation has compiled them once.
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
            ["captcha-pipeline run, nothing has changed", *measure(*_COMMAND, "run", *served.options())],
            ["captcha-pipeline predict picture.png", *measure(*_COMMAND, *predict)],
            ["comparison: import tensorflow", *measure(sys.executable, "-c", "import tensorflow")],
        ]
    record(
        "start_up",
        "Duration of a command in a new process",
        ["command", "median", "longest", "median CPU time", "first run"],
        rows,
        [f"{RUNS} runs each, after the first run. The first run may read files from disk, and compile modules after an installation."],
    )


if __name__ == "__main__":
    main()
