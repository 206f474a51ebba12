"""Duration of a whole run without the epochs of the fit: 24,000 pictures through every step.

    uv run python -m benchmarks.whole_run

Expected: at most 40 s for everything except the epochs of the fit, including imports and the report. About a minute and a half on 2 cores.
"""

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.results import record
from benchmarks.tasks import Task, command
from components.base.features import HISTORY_FILE
from pipeline.runs import history

TASK: Final = Task("digits-whole", "digits", 24_000, "{train: 10, eval: 1, test: 1}", seed=1)


def main() -> None:
    TASK.config()
    with tempfile.TemporaryDirectory() as root:
        # One epoch, because epochs are not measured. A new root, so that no output is reused.
        overrides = (f"root={root}", "trainer.epochs=1", "evaluator.min_sequence_accuracy=0")
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command("run", *TASK.options(*overrides))
        whole = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = history.latest_complete_run(TASK.config(*overrides).metadata_path)
        epochs = json.loads((Path(str(run.artifact_uri("Trainer", "model_run"))) / HISTORY_FILE).read_text(encoding="utf-8"))
    fit = sum(epoch["seconds"] for epoch in epochs)
    seconds = {step.node: step.seconds or 0.0 for step in run.steps}
    around = whole - sum(seconds.values())
    seconds["Trainer"] -= fit
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record(
        "whole_run",
        f"`captcha-pipeline run` without the epochs of the fit, {TASK.count:,} pictures",
        ["part", "seconds"],
        [
            *([f"{step}, without the epochs" if step == "Trainer" else step, f"{taken:.1f}"] for step, taken in seconds.items()),
            ["start, time between the steps, report", f"{around:.1f}"],
            ["total", f"{whole - fit:.1f}"],
        ],
        [f"One run with one epoch, whose {fit:.1f} s are excluded. The run took {cpu:.0f} s of CPU time, including the epoch."],
    )


if __name__ == "__main__":
    main()
