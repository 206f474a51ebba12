"""Tests whether `captcha-pipeline strength` is right: whether a model reads half of the pictures with the number of labels that it names.

    uv run python -m benchmarks.strength --data FOLDER

FOLDER has the sets gt4 and v2, as for benchmarks/real.py. The benchmark makes a run with all training pictures, and then `strength`. It
fits models to the number of labels that `strength` names for 50 % of the pictures, to this number divided by 1.5, and to this number times
1.5, each with three seeds. The answer is right within a factor of 1.5 if the models with fewer labels read less than half of the test part
on average, and those with more labels read more than half. A set takes about 40 minutes on 2 cores.
"""

import random
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from benchmarks.real import import_and_run, prepared
from benchmarks.real_sets import Division, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import fit_and_read
from pipeline.config.loading import load_config
from pipeline.logs import load_tensorflow, silence
from pipeline.runs import history

_NAME: Final = "strength"
_SETS: Final = ("gt4", "v2")
_HALF: Final = 0.5
_FACTOR: Final = 1.5
_SEEDS: Final = (1, 2, 3)
_RUN: Final = ("trainer.epochs=1", "evaluator.min_sequence_accuracy=0")  # a short fit, because only the examples of the run are used


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    only: Annotated[list[str] | None, typer.Option(help=f"a set; can be repeated; default: {', '.join(_SETS)}")] = None,
) -> None:
    load_tensorflow()
    found = {division.name: division for division in divisions(data)}
    for name in only or _SETS:
        keep(_NAME, measure(found[name]))
    rows = {row["set"]: row for row in kept(_NAME)}
    notes = [f"Fits to these pictures of the training part, drawn at random, with the seeds {', '.join(map(str, _SEEDS))}; test part read."]
    record(_NAME, "The labels that an attacker needs for half of the pictures", *table(rows.values()), notes)


def measure(division: Division) -> dict[str, Any]:
    """Returns the result row of a set."""
    from pipeline.runs.strength import strength

    part = division.parts[0]
    spec = spec_of(part.train)
    settings = prepared(f"strength-{division.name}", spec, part.train)
    import_and_run(settings, *_RUN)
    config = load_config(settings)
    found = strength(config, history.latest_complete_run(config.metadata_path), (), print)
    needed = next(goal.labels for goal in found.goals if goal.accuracy == _HALF)
    sizes = [round(min(needed.value * factor, len(part.train))) for factor in (1 / _FACTOR, 1, _FACTOR)]
    read = {}
    for size in sizes:
        fits = (
            fit_and_read(random.Random(seed).sample(part.train, size), part.test, spec, config.trainer.model_copy(update={"seed": seed}))
            for seed in _SEEDS
        )
        read[str(size)] = [fit.counts(spec).sequences_right for fit in fits]
    return {
        "set": division.name,
        "needed": round(needed.value, 1),
        "lower": round(needed.lower, 1),
        "upper": round(needed.upper, 1),
        "read": read,
        "test": len(part.test),
        "machine": machine(),
    }


def table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: one row for each set."""
    columns = [
        "set",
        "labels for 50 % (80 % interval)",
        "test pictures",
        "fits: labels and what they read",
        f"within a factor of {_FACTOR}",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: str(row["set"])):
        shares = {labels: [right / row["test"] for right in rights] for labels, rights in row["read"].items()}
        fewer, *_, more = map(statistics.mean, shares.values())
        lines.append(
            [
                row["set"],
                f"{row['needed']:,.0f} ({row['lower']:,.0f} to {row['upper']:,.0f})",
                f"{row['test']:,}",
                "; ".join(f"{labels}: {', '.join(f'{share:.1%}' for share in found)}" for labels, found in shares.items()),
                "yes" if fewer < _HALF < more else "no",
            ]
        )
    return columns, lines


if __name__ == "__main__":
    silence()
    typer.run(main)
