"""Measures how well a model reads that is trained on few labels, and how much better with pseudo-labels or drawn pictures.

    uv run python -m benchmarks.few_labels --data FOLDER

FOLDER has the sets gt4, v2 and cc6, as for benchmarks/real.py. Each case uses the labels of some training pictures of a set, and other
training pictures without their labels. It makes a run with the labels alone, and then `captcha-pipeline data pseudo` and another run. A
third run has the labels and 20,000 pictures drawn in the style that `captcha-pipeline synth fit` finds in the other pictures. The model
reads the test part after each run; nothing is chosen by the result. Each seed chooses other labelled pictures. The result of each run is
stored at once, so cases and seeds can run one by one, with `--case gt4-200 --seeds 2`. A case takes about 30 minutes per seed on 2 cores.
"""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from benchmarks.real import import_and_run, prepared, readings, right
from benchmarks.real_sets import Division, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import without_labels
from benchmarks.synth_fit import DRAWN, draw_like
from benchmarks.tasks import command
from components.base.errors import CaptchaPipelineError
from components.evaluation.metrics import wilson_interval
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.config.loading import load_config
from pipeline.logs import silence

_NAME: Final = "few_labels"
_CONFIDENCE: Final = 0.95
_ALONE: Final = "alone"
_PSEUDO: Final = "pseudo"
_DRAWN: Final = "drawn"
_WAYS: Final = MappingProxyType({_ALONE: "nothing", _PSEUDO: "{} with pseudo-labels", _DRAWN: f"{DRAWN:,} drawn like them"})


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
    ways: Annotated[str, typer.Option(help=f"comma-separated, of {', '.join(_WAYS)}")] = ",".join(_WAYS),
) -> None:
    found = {division.name: division for division in divisions(data)}
    for name in case or _CASES:
        for seed in map(int, seeds.split(",")):
            for row in measure(name, found[_CASES[name].division], seed, ways.split(",")):
                keep(_NAME, row)
    notes = [
        "The test part of the set is read by the pushed model. The interval is that of the median over the seeds.",
        f"Drawn like them: {DRAWN:,} pictures, in the style that `synth fit` finds in at most 400 of the pictures without labels.",
        "In cc6 it finds no style, because the characters overlap.",
        "Minutes: from the first command to the push, including `data pseudo` or `synth fit`. Missing if the machine did other work.",
    ]
    record(_NAME, "Few labels, many pictures", *table(kept(_NAME)), notes)


def measure(name: str, division: Division, seed: int, ways: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yields a result row for each of the ways. The labels alone come before pseudo-labels, which are given by models of the labels.

    Args:
      name: of the case.
      division: its set.
      seed: chooses the labelled pictures.
      ways: some of _WAYS.
    """
    case, part = _CASES[name], division.parts[0]
    shuffled = random.Random(seed).sample(part.train, len(part.train))
    labelled, others = shuffled[: case.labels], shuffled[case.labels :][: case.unlabelled]
    spec = spec_of(labelled)

    def row(way: str, settings: Path) -> dict[str, Any]:
        seconds = time.perf_counter() - start
        read = right(part.test, readings(load_config(settings), [picture.path for picture in part.test]), spec)
        about = {"case": name, "way": way, "unlabelled": len(others), "seed": seed}
        return about | {"read": read, "test": len(part.test), "seconds": round(seconds), "machine": machine()}

    settings = prepared(f"few-{name}-{seed}", spec, labelled)
    unlabelled = without_labels(others, settings.with_name("unlabelled"))
    if _DRAWN in ways:
        start = time.perf_counter()
        with_drawn = prepared(f"few-{name}-{seed}-drawn", spec, labelled)
        try:
            draw_like(unlabelled, with_drawn)
        except CaptchaPipelineError as error:  # in cc6 the characters overlap too much
            print(f"{name}: {error}")
        else:
            import_and_run(with_drawn)
            yield row(_DRAWN, with_drawn)
    if not {_ALONE, _PSEUDO} & set(ways):
        return
    start = time.perf_counter()
    import_and_run(settings)
    yield row(_ALONE, settings)
    if _PSEUDO in ways:
        command("data", "pseudo", str(unlabelled), "--config", str(settings))
        command("run", "--config", str(settings), "--set", "evaluator.max_regression=1", exit_codes=(0, NOT_PUSHED))
        yield row(_PSEUDO, settings)


def table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: a row for each case and each of _WAYS."""
    columns = ["set", "labels", "further pictures", "test pictures", "full sequence, per seed", "median (95 %)", "goal", "minutes"]
    groups: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["case"], row["way"]][row["seed"]] = row
    lines = []
    for (name, way), by_seed in sorted(groups.items(), key=lambda group: (group[0][0], [*_WAYS].index(group[0][1]))):
        case, runs = _CASES[name], [by_seed[seed] for seed in sorted(by_seed)]
        middle = wilson_interval(statistics.median_low(run["read"] for run in runs), runs[0]["test"], _CONFIDENCE)
        seconds = [run["seconds"] for run in runs if run["seconds"]]
        lines.append(
            [
                case.division,
                str(case.labels),
                _WAYS[way].format(f"{runs[0]['unlabelled']:,}"),
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
