"""Kills a run with SIGKILL in each of its steps, and lets the next one take up from there.

    uv run python -m benchmarks.kill_each_step

Expected: a line a step, then "complete: …" with one whole version in the serving folder and no execution left as running. The
tiny configuration takes about three minutes on 2 cores.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from components import serving_dir
from pipeline import history
from pipeline.config_file import load_config
from pipeline.served_model import ServedModel

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
# Seconds after the step has begun. The others are over in less.
DELAYS = {"CaptchaExampleGen": 1.0, "StatisticsGen": 1.5, "Transform": 2.0, "CaptchaEvaluator": 2.0, "AtomicPusher": 2.0}


def command(root: str, *words: str) -> list[str]:
    # -u: the lines that the steps are told apart by must come at once.
    program = [sys.executable, "-u", "-c", "from pipeline.cli import main; main()"]
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
                raise SystemExit(f"the run ended before {step} began")
        time.sleep(DELAYS.get(step, 0.0))
        os.killpg(process.pid, signal.SIGKILL)
    return line.strip()


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        subprocess.run(command(root, "data", "synth"), check=True)
        config = load_config(TINY, [f"root={root}/output", f"data.root={root}/data"])
        for step in STEPS:
            seen = kill_in(step, root)
            for pushed in serving_dir.versions(config.serving_dir):
                ServedModel(pushed.path)
            numbered = [path.name for path in Path(config.serving_dir).glob("[0-9]*")]
            print(f"killed in {step:<20} after {seen!r}; versions in the serving folder: {numbered}", flush=True)
        subprocess.run(command(root, "run"), check=True)
        (pushed,) = serving_dir.versions(config.serving_dir)
        ServedModel(pushed.path)
        states = [step.state for run in history.runs(config.metadata_path) for step in run.steps]
        assert "running" not in states, states
        print(
            f"complete: version {pushed.version}; {len(STEPS)} runs were killed, {states.count('interrupted')} steps are marked interrupted"
        )


if __name__ == "__main__":
    main()
