"""Accuracy by training time and pictures seen: full pipeline runs, evaluated on test pictures that are used for nothing else.

    uv run python -m benchmarks.accuracy digits-final --epochs 8 --seeds 1,2,3

Expected: one line per seed, then the table of all recorded runs. This example takes about five minutes on 2 cores.
"""

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.results import keep, kept, machine, record
from benchmarks.tasks import TASKS, Task, command
from components.base.features import HISTORY_FILE
from components.data.spans import list_spans
from components.evaluation.metrics import wilson_interval
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.logs import silence
from pipeline.runs import history

_FONTS: Final = (
    "averia-sans-gwf, averia-serif-gwf, comfortaa, croscore, crosextra-caladea, crosextra-carlito, dejavu-core, dejavu-extra, dustin, "
    "ecolier-court, freefont-ttf, hack, inconsolata, karla, lato, liberation, open-sans, play, quicksand, roboto-unhinted, tuffy, vollkorn"
)
_NOTES: Final = (
    "Counted heads: the weight of the CTC loss falls during the fit; before 2026-11-30 it was constant (docs/recipe.md).",
    f"*free* uses the fonts in /usr/share/fonts/truetype from these Debian 12 packages, named fonts-…: {_FONTS}.",
)


def main(
    task: Annotated[str, typer.Argument(help="a task of benchmarks/tasks.py, such as digits-final or alnum")],
    epochs: Annotated[int, typer.Option(min=0, help="passes over the training split; 0: chosen by the number of pictures")] = 0,
    minutes: Annotated[float | None, typer.Option(help="time limit of the fit")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1",
    preset: Annotated[str, typer.Option(help="preset of the model")] = "vgg-slim",
) -> None:
    for seed in map(int, seeds.split(",")):
        keep("accuracy", measure(TASKS[task], preset, epochs, minutes, seed))
    record("accuracy", "Accuracy by pictures seen and training time", *table(kept("accuracy")), _NOTES)


def measure(task: Task, preset: str, epochs: int, minutes: float | None, seed: int) -> dict[str, Any]:
    """Runs the pipeline and returns a result row from the output of the Trainer and the Evaluator."""
    overrides = (
        f"trainer.preset={preset}",
        f"trainer.epochs={epochs or 'auto'}",
        f"trainer.max_minutes={minutes or 'null'}",
        f"trainer.seed={seed}",
        "evaluator.min_sequence_accuracy=0",
        "evaluator.max_regression=1",
    )
    config = task.config(*overrides)
    command("run", *task.options(*overrides), exit_codes=(0, NOT_PUSHED))  # a model that reads less than the last one counts as well
    from components.training.model import PRESETS
    from components.training.optimizer import Muon
    from pipeline.reporting.results import result_of

    finished = history.latest_complete_run(config.metadata_path)
    results = result_of(config, finished).evaluation.results
    fit = json.loads((Path(finished.artifact_uri("Trainer", "model_run") or "") / HISTORY_FILE).read_text(encoding="utf-8"))
    (span,) = list_spans(config.data.root)
    return {
        "task": task.name,
        "preset": preset,
        "heads": PRESETS[preset].heads,
        "optimizer": Muon.__name__,
        "epochs": len(fit),
        "train": span.manifest.counts["train"],
        "seed": seed,
        "fit_s": round(sum(epoch["seconds"] for epoch in fit), 1),
        "test": results.example_count,
        "read": round(results.sequence_accuracy.value * results.example_count),
        "position_accuracy": round(results.character_accuracy, 6),
        "machine": machine(),
    }


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows: one row per task, preset, heads, optimizer, epochs, split sizes and processor."""
    columns = [
        "task",
        "preset",
        "heads",
        "optimizer",
        "epochs",
        "pictures seen",
        "median fit time",
        "processor",
        "test pictures",
        "full-sequence accuracy, per seed",
        "median (95 % interval)",
        "position accuracy",
    ]
    groups = defaultdict(list)
    for row in rows:
        names = ("task", "preset", "heads", "optimizer", "epochs", "train", "test")
        group = (*(row[name] for name in names), row["machine"].partition(",")[0])
        groups[group].append(row)
    lines = []
    for (task, preset, heads, optimizer, epochs, train, test, processor), runs in sorted(groups.items()):
        middle = wilson_interval(statistics.median_low(run["read"] for run in runs), test, 0.95)
        # A row's seconds are null if the machine did other work during the fit.
        lines.append(
            [
                task,
                preset,
                heads,
                optimizer,
                str(epochs),
                f"{epochs * train:,}",
                f"{statistics.median(run['fit_s'] for run in runs):.0f} s" if all(run["fit_s"] for run in runs) else "not measured",
                processor,
                f"{test:,}",
                ", ".join(f"{run['read'] / test:.2%}" for run in runs),
                f"{middle.value:.2%} ({middle.lower:.2%} to {middle.upper:.2%})",
                f"{statistics.median(run['position_accuracy'] for run in runs):.3%}",
            ]
        )
    return columns, lines


if __name__ == "__main__":
    silence()
    typer.run(main)
