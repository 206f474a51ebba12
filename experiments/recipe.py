"""Measures the effect of each part of the training recipe: one change at a time, compared with the Trainer's recipe.

    uv run python -m experiments.recipe digits-recipe "base;rate 2e-2" --epochs 4 --seeds 1,2,3

Each trial fits the training split of a prepared data set (see benchmarks/prepared.py) and reads its eval split once, at the end. The test
split is never used. Expected: one line per trial and seed, appended to experiments/results/recipe.jsonl, the source of the figures in
docs/recipe.md.
"""

import time
from typing import Annotated, Any

import typer

from benchmarks.results import keep
from benchmarks.tasks import TASKS
from pipeline.logs import load_tensorflow, silence


def main(
    task: Annotated[str, typer.Argument(help="digits-recipe or alnum; see benchmarks/tasks.py")],
    names: Annotated[str, typer.Argument(help="trials, separated by semicolons; see experiments/trials.py")],
    epochs: Annotated[int, typer.Option(help="passes over the training split")] = 4,
    pictures: Annotated[int | None, typer.Option(help="number of training pictures; by default all")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1",
) -> None:
    load_tensorflow()
    from benchmarks.prepared import prepare
    from experiments import trials

    config = TASKS[task].config()
    data = prepare(config)
    for seed in map(int, seeds.split(",")):
        for name in names.split(";"):
            trial = trials.TRIALS[name]
            wall, cpu = time.monotonic(), time.process_time()
            outcome: dict[str, Any] = trials.fit(trial, config, data, epochs, pictures, seed)
            seconds = {"wall_s": round(time.monotonic() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
            keep("recipe", {"task": task, "trial": name, "epochs": epochs, "seed": seed, **outcome, **seconds})


if __name__ == "__main__":
    silence()
    typer.run(main)
