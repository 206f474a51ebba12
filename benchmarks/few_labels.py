"""Measures how well a model reads that is trained on few labels, and how much better with pseudo-labels for many other pictures.

    uv run python -m benchmarks.few_labels --data FOLDER

FOLDER has the sets gt4, v2 and cc6, as for benchmarks/real.py. Each case uses the labels of some training pictures of a set, and other
training pictures without their labels. It makes a run with the labels alone, and then `captcha-pipeline data pseudo` and another run. The
model reads the test part after each run; nothing is chosen by the result. Each seed chooses other labelled pictures. The result of each
run is stored at once, so cases and seeds can run one by one, with `--case gt4-200 --seeds 2`. A case takes about 15 minutes per seed on 2
cores.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from benchmarks.real import import_and_run, prepared, readings, right
from benchmarks.real_sets import Division, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import without_labels
from benchmarks.tasks import command
from components.evaluation.metrics import wilson_interval
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.config.loading import load_config
from pipeline.logs import silence

_NAME: Final = "few_labels"
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Case:
    """A set with few labels.

    Attributes:
      division: the name of the set.
      labels: the number of labelled pictures, in all splits of the run.
      unlabelled: the largest number of pictures without labels.
      goal: the share of the test part that should be read right.
    """

    division: str
    labels: int
    unlabelled: int
    goal: float


_CASES: Final = MappingProxyType(
    {
        f"{case.division}-{case.labels}": case
        for case in (
            Case("gt4", 200, 5_000, 0.995),
            Case("gt4", 50, 5_000, 0.95),
            Case("v2", 300, 5_000, 0.97),
            Case("cc6", 100, 5_000, 0.95),
        )
    }
)


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    case: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(_CASES)}; can be repeated; default: all")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3",
) -> None:
    found = {division.name: division for division in divisions(data)}
    for name in case or _CASES:
        for seed in map(int, seeds.split(",")):
            for row in measure(name, found[_CASES[name].division], seed):
                keep(_NAME, row)
    notes = [
        "The test part of the set is read by the pushed model. The interval is that of the median over the seeds.",
        "Minutes: from the import to the push; with pseudo-labels, of both runs and `data pseudo`. Missing if the machine did other work.",
    ]
    record(_NAME, "Few labels, many pictures", *table(kept(_NAME)), notes)


def measure(name: str, division: Division, seed: int) -> Iterator[dict[str, Any]]:
    """Yields a result row for the labels alone, and one for labels and pseudo-labels.

    Args:
      name: of the case.
      division: its set.
      seed: chooses the labelled pictures.
    """
    case, part = _CASES[name], division.parts[0]
    shuffled = random.Random(seed).sample(part.train, len(part.train))
    labelled, others = shuffled[: case.labels], shuffled[case.labels :][: case.unlabelled]
    spec = spec_of(labelled)
    settings = prepared(f"few-{name}-{seed}", spec, labelled)
    unlabelled = without_labels(others, settings.with_name("unlabelled"))
    start = time.perf_counter()
    for pseudo in (False, True):
        if pseudo:
            command("data", "pseudo", str(unlabelled), "--config", str(settings))
            command("run", "--config", str(settings), "--set", "evaluator.max_regression=1", exit_codes=(0, NOT_PUSHED))
        else:
            import_and_run(settings)
        seconds = time.perf_counter() - start
        read = right(part.test, readings(load_config(settings), [picture.path for picture in part.test]), spec)
        yield {
            "case": name,
            "unlabelled": len(others) if pseudo else 0,
            "seed": seed,
            "read": read,
            "test": len(part.test),
            "seconds": round(seconds),
            "machine": machine(),
        }


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: two rows for each case, with the labels alone and with pseudo-labels."""
    columns = ["set", "labels", "pictures without labels", "test pictures", "full sequence, per seed", "median (95 %)", "goal", "minutes"]
    groups: dict[tuple[str, int], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["case"], row["unlabelled"]][row["seed"]] = row
    lines = []
    for (name, unlabelled), by_seed in sorted(groups.items()):
        case, runs = _CASES[name], [by_seed[seed] for seed in sorted(by_seed)]
        middle = wilson_interval(statistics.median_low(run["read"] for run in runs), runs[0]["test"], _CONFIDENCE)
        seconds = [run["seconds"] for run in runs if run["seconds"]]
        lines.append(
            [
                case.division,
                str(case.labels),
                f"{unlabelled:,}" if unlabelled else "not used",
                f"{runs[0]['test']:,}",
                ", ".join(f"{run['read'] / run['test']:.1%}" for run in runs),
                f"{middle.value:.1%} ({middle.lower:.1%} to {middle.upper:.1%})",
                f"{case.goal:.1%}",
                f"{statistics.median(seconds) / 60:.0f}" if seconds else "",
            ]
        )
    return columns, lines


if __name__ == "__main__":
    silence()
    typer.run(main)
