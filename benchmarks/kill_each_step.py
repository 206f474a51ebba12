"""Kills a run with SIGKILL in each of its steps. Each next run resumes after the last completed step.

    uv run python -m benchmarks.kill_each_step

Expected, and asserted: the serving folder never contains an incomplete version. The run after the last kill completes. It leaves one
version that can be loaded, and no execution that is still marked running. About three minutes on 2 cores.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import record
from components.serving import serving_dir
from pipeline.config.loading import load_config
from pipeline.inference.served_model import ServedModel
from pipeline.runs import history

TINY = Path(__file__).parents[1] / "configs" / "tiny.yaml"
STEPS = (
    "CaptchaExampleGen",
    "CaptchaSchema",
    "DriftGate",
    "LatestPushedModel",
    "StatisticsGen",
    "SchemaGate",
    "Transform",
    "Trainer",
    "CaptchaEvaluator",
    "AtomicPusher",
)
# Seconds from the start of the step to the kill. The other steps are too short for a delay.
DELAYS = {"CaptchaExampleGen": 1.0, "StatisticsGen": 1.5, "Transform": 2.0, "CaptchaEvaluator": 2.0, "AtomicPusher": 2.0}


def command(root: str, *words: str) -> list[str]:
    """Returns a command line with data and output in `root`."""
    # -u: the printed lines show which step runs, so they must not be buffered.
    program = [sys.executable, "-u", "-c", "from pipeline.cli.main import main; main()"]
    return [*program, *words, "--config", str(TINY), "--set", f"root={root}/output", "--set", f"data.root={root}/data"]


def kill_in(step: str, root: str) -> str:
    """Starts a run, kills it in `step`, and returns the last line that it printed."""
    begins = "Starting" if step == STEPS[0] else f"✓ {STEPS[STEPS.index(step) - 1]}"
    if step == "Trainer":
        begins = "epoch 3/"
    line = ""
    with subprocess.Popen(command(root, "run"), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        if step == STEPS[0]:
            lock = Path(root, "output", "tiny", "run.lock")
            while not (lock.exists() and lock.read_text() == str(process.pid)):
                time.sleep(0.05)
        else:
            for line in process.stdout:
                if begins in line:
                    break
            else:
                raise SystemExit(f"The run ended before {step} began.")
        time.sleep(DELAYS.get(step, 0.0))
        os.killpg(process.pid, signal.SIGKILL)
    return line.strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(command(root, "data", "synth"), check=True)
        config = load_config(TINY, [f"root={root}/output", f"data.root={root}/data"])
        rows = []
        for step in STEPS:
            seen = kill_in(step, root)
            for pushed in serving_dir.versions(config.serving_dir):
                ServedModel(pushed.path)
            numbered = [path.name for path in Path(config.serving_dir).glob("[0-9]*")]
            rows.append([step, seen, str(len(numbered))])
            print(*rows[-1], sep=" | ", flush=True)
        subprocess.run(command(root, "run"), check=True)
        (pushed,) = serving_dir.versions(config.serving_dir)
        ServedModel(pushed.path)
        states = [step.state for run in history.runs(config.metadata_path) for step in run.steps]
        assert "running" not in states, states
        left = f"The next run completed, with one version in the serving folder. {states.count('interrupted')} steps are marked "
        notes = [left + "interrupted; the others were killed before they began or after they ended."]
        record("kill_each_step", "A run killed in each of its steps", ["killed in", "last line printed", "versions pushed"], rows, notes)


if __name__ == "__main__":
    main()
