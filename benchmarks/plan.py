"""Tests whether `captcha-pipeline plan` is right: compares the accuracy that it expects with twice the labels with that of a fit to them.

    uv run python -m benchmarks.plan --data FOLDER

FOLDER has the sets gt4 and v2, as for benchmarks/real.py. For each seed, the benchmark takes some pictures of the training part, fits
models to an eighth, a quarter and half of them as `plan` does, and extrapolates. Then it fits one model to twice as many pictures of the
training part, which reads the test part. In eight of ten trials, its accuracy should be in the interval. The result of each trial is stored
at once, so sets and seeds can run one by one, with `--only v2 --seeds 2`. A trial takes about 15 minutes on 2 cores.
"""

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from benchmarks.real_sets import Division, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import fit_and_read, write
from components.evaluation.learning_curve import LEVEL, LearningCurve
from components.training.hyperparameters import Hyperparameters
from pipeline.logs import load_tensorflow, silence

_NAME: Final = "plan"
_LABELS: Final = MappingProxyType({"gt4": 160, "v2": 240})  # from which the accuracy with twice as many is extrapolated


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    only: Annotated[list[str] | None, typer.Option(help=f"a set; can be repeated; default: {', '.join(_LABELS)}")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3,4,5",
) -> None:
    load_tensorflow()
    found = {division.name: division for division in divisions(data)}
    for name in only or _LABELS:
        for seed in map(int, seeds.split(",")):
            keep(_NAME, measure(found[name], seed))
    rows = {(row["set"], row["seed"]): row for row in kept(_NAME)}
    inside = sum(_inside(row) for row in rows.values())
    notes = [
        f"The accuracy lies in the interval of {LEVEL:.0%} in {inside} of {len(rows)} trials. The goal is 8 of 10.",
        "The interval is that of the share that one fit reads right of a test part of this size.",
        "A fit is to all pictures that a model is trained on, without those of the eval and the test split.",
    ]
    record(_NAME, "The accuracy at twice the labels, expected and reached", *table(rows.values()), notes)


def measure(division: Division, seed: int) -> dict[str, Any]:
    """Returns the result row of a trial: a set and a seed, which chooses the pictures and the initial weights."""
    from components.training.cross_validation import learning_curve

    part, labels = division.parts[0], _LABELS[division.name]
    spec, parameters = spec_of(part.train), Hyperparameters(seed=seed)
    shuffled = random.Random(seed).sample(part.train, 2 * labels)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "labels.gz")
        write(shuffled[:labels], spec, file)
        fits = learning_curve([str(file)], spec, parameters, Path(directory), lambda fit: None)
    expected = LearningCurve(fits).accuracy(2 * labels, len(part.test))
    counts = fit_and_read(shuffled, part.test, spec, parameters).counts(spec)
    return {
        "set": division.name,
        "seed": seed,
        "labels": labels,
        "expected": round(expected.value, 4),
        "lower": round(expected.lower, 4),
        "upper": round(expected.upper, 4),
        "read": counts.sequences_right,
        "test": counts.examples,
        "machine": machine(),
    }


def table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: one row for each trial."""
    columns = ["set", "seed", "labels", "expected at twice as many", "interval", "test pictures", "reached", "in the interval"]
    return columns, [
        [
            row["set"],
            str(row["seed"]),
            str(row["labels"]),
            f"{row['expected']:.1%}",
            f"{row['lower']:.1%} to {row['upper']:.1%}",
            f"{row['test']:,}",
            f"{row['read'] / row['test']:.1%}",
            "yes" if _inside(row) else "no",
        ]
        for row in sorted(rows, key=lambda row: (row["set"], row["seed"]))
    ]


def _inside(row: dict[str, Any]) -> bool:
    return bool(row["lower"] <= row["read"] / row["test"] <= row["upper"])


if __name__ == "__main__":
    silence()
    typer.run(main)
