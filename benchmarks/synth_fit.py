"""Measures how well a model reads that is trained only on pictures drawn in the style that `captcha-pipeline synth fit` finds.

    uv run python -m benchmarks.synth_fit --data FOLDER

FOLDER has the sets gt4 and v2, as for benchmarks/real.py. The style is found from 50 pictures of the training part, without their labels.
The charset and the length are those of the training labels, because the owner of a captcha knows them. 20,000 pictures are drawn, a model
is trained on them, and it reads the test part. Half of the 50 pictures are not used to find the style: a classifier tries to tell them from
drawn ones. Each seed takes other pictures. A seed of a set takes about 20 minutes on 2 cores. The style and its page are written to
data/benchmarks/real/synth-fit-SET-SEED.
"""

import random
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from benchmarks.real import prepared, readings, right
from benchmarks.real_sets import Division, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.subset_fits import without_labels
from benchmarks.tasks import command
from components.data.drawing.painting import usable_fonts
from components.data.style_fit.real_pictures import read_sample
from components.data.style_fit.style_search import Fitted, fit_style
from components.data.style_fit.style_section import section_of
from components.evaluation.metrics import wilson_interval
from pipeline.config.loading import load_config
from pipeline.logs import silence
from pipeline.reporting.style_page import write_style_page

_NAME: Final = "synth_fit"
_GOALS: Final = MappingProxyType({"gt4": 0.8, "v2": 0.4})  # the share of the test part that should be read right
_REAL: Final = 50  # pictures from which the style is found
DRAWN: Final = 20_000  # pictures to train on
_CONFIDENCE: Final = 0.95
_AUC_GOAL: Final = 0.65  # the AUC should be at most this


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    only: Annotated[list[str] | None, typer.Option(help=f"a set; can be repeated; default: {', '.join(_GOALS)}")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3",
) -> None:
    found = {division.name: division for division in divisions(data)}
    for name in only or _GOALS:
        for seed in map(int, seeds.split(",")):
            keep(_NAME, measure(found[name], seed))
    notes = [
        f"AUC: of a classifier that tells real pictures from drawn ones, {_REAL // 2} of them not used for the search; 0.5 is a guess.",
        "The fonts are those installed, or one traced from the pictures.",
    ]
    record(_NAME, "Trained on drawn pictures only", *table(kept(_NAME)), notes)


def measure(division: Division, seed: int) -> dict[str, Any]:
    """Finds a style, trains on pictures drawn in it, and returns a result row."""
    part = division.parts[0]
    spec = spec_of(part.train)
    settings = prepared(f"synth-fit-{division.name}-{seed}", spec, [])
    folder = without_labels(random.Random(seed).sample(part.train, _REAL), settings.with_name("real"))
    fitted = draw_like(folder, settings)
    command("run", "--config", str(settings))
    return {
        "set": division.name,
        "seed": seed,
        "auc": round(fitted.comparison.auc, 3),
        "read": right(part.test, readings(load_config(settings), [picture.path for picture in part.test]), spec),
        "test": len(part.test),
        "machine": machine(),
    }


def draw_like(folder: Path, settings: Path) -> Fitted:
    """Finds the style of the pictures in a folder, adds it to a configuration, and draws DRAWN pictures into a span. Writes the page."""
    config, page = load_config(settings), settings.with_name("style.html")
    real = read_sample(folder, config.data.picture_rules)
    fonts = usable_fonts(config.synth.fonts, config.captcha.characters)
    fitted = fit_style(real, fonts, config.captcha, page.with_suffix(".ttf"), lambda what, done, total: None)
    section = section_of(fitted, real, str(folder))
    write_style_page(folder.name, fitted, real, section, page)
    with settings.open("a", encoding="utf-8") as file:
        file.write(section)
    command("data", "synth", "--config", str(settings), "--set", f"synth.count={DRAWN}")
    return fitted


def table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: one row for each set."""
    columns = ["set", "test pictures", "full sequence, per seed", "median (95 %)", "goal", "AUC, per seed", "goal of the AUC"]
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["set"]][row["seed"]] = row
    lines = []
    for name, by_seed in sorted(groups.items()):
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        middle = wilson_interval(statistics.median_low(run["read"] for run in runs), runs[0]["test"], _CONFIDENCE)
        lines.append(
            [
                name,
                f"{runs[0]['test']:,}",
                ", ".join(f"{run['read'] / run['test']:.1%}" for run in runs),
                f"{middle.value:.1%} ({middle.lower:.1%} to {middle.upper:.1%})",
                f"{_GOALS[name]:.0%}",
                ", ".join(f"{run['auc']:.2f}" for run in runs),
                f"at most {_AUC_GOAL}",
            ]
        )
    return columns, lines


if __name__ == "__main__":
    silence()
    typer.run(main)
