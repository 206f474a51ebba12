"""Measures how many wrong labels `captcha-pipeline audit` finds, and how much better a model reads after they are corrected.

    uv run python -m benchmarks.audit --data FOLDER

FOLDER has the sets gt4 and v2, as for benchmarks/real.py. 3 % of the training labels get one wrong character: in half of them any other
character, in the other half one that looks similar. The benchmark makes a run and an audit, gives all pictures that the audit shows their
right labels, and makes another run. For comparison, it makes a run with labels that were right from the start. Each of the three models
reads the test part; nothing is chosen by the results. Each seed chooses other pictures and other mistakes. The result of each audit is
stored at once, so cases and seeds can run one by one, with `--case v2-800 --seeds 2`. A case takes about half an hour per seed on 2 cores.
"""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from benchmarks.real import import_and_run, prepared, readings, right
from benchmarks.real_sets import Division, Labelled, divisions, spec_of
from benchmarks.results import keep, kept, machine, record
from benchmarks.tasks import command
from components.data.captcha_spec import CaptchaSpec
from components.data.pictures import visible_picture
from components.data.splits import split_key
from components.evaluation.metrics import wilson_interval
from pipeline.cli.terminal import NOT_PUSHED
from pipeline.config.config import DataConfig
from pipeline.config.loading import load_config
from pipeline.logs import load_tensorflow, silence
from pipeline.runs import history

_NAME: Final = "audit"
_CASES: Final = MappingProxyType({"v2-800": ("v2", 800), "gt4-2000": ("gt4", 2_000)})
_WRONG: Final = 0.03  # the share of the labels that are made wrong
_FOLDS: Final = 5
_LOOK_ALIKE: Final = ("0o8d", "1l7i", "2z7", "38b", "4a9", "5s6", "6bg8", "9gq", "ceo", "nmhr", "vyu", "pqb", "dcl", "fte", "wx", "kx")
_CONFIDENCE: Final = 0.95
_GOALS: Final = (0.95, 0.9)  # recall: the share of the wrong labels that is shown; precision: the share of the shown labels that is wrong


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    case: Annotated[list[str] | None, typer.Option(help=f"one of {', '.join(_CASES)}; can be repeated; default: all")] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "1,2,3",
) -> None:
    load_tensorflow()
    found = {division.name: division for division in divisions(data)}
    for name in case or _CASES:
        for seed in map(int, seeds.split(",")):
            keep(_NAME, measure(name, found[_CASES[name][0]], seed))
    notes = [
        "Found: of the labels made wrong. Right: of the labels that the audit shows, those made wrong. Both are sums over the seeds.",
        "About 2 % of gt4's own labels are wrong. They count as right here, so that finding one of them counts as a mistake.",
        "Corrected: each label that the audit shows got its original text. The last three columns are per seed.",
    ]
    record(_NAME, "Labels made wrong, and what the audit finds", *table(kept(_NAME)), notes)


def measure(name: str, division: Division, seed: int) -> dict[str, Any]:
    """Makes labels wrong, audits, corrects, and returns a result row.

    Args:
      name: of the case.
      division: its set.
      seed: chooses the pictures and the mistakes.
    """
    from pipeline.runs.audit import audit

    part = division.parts[0]
    chosen = random.Random(seed).sample(part.train, min(_CASES[name][1], len(part.train)))
    spec = spec_of(part.train)
    planted = plant(chosen, spec, seed)
    settings = prepared(
        f"audit-{name}-{seed}", spec, [replace(picture, label=planted.get(at, picture.label)) for at, picture in enumerate(chosen)]
    )
    import_and_run(settings)
    config = load_config(settings)
    test = [picture.path for picture in part.test]
    read_wrong = right(part.test, readings(config, test), spec)
    rules = DataConfig().picture_rules
    by_key = {split_key(visible_picture(picture.path.read_bytes(), rules)).hex(): at for at, picture in enumerate(chosen)}
    suspects = audit(config, history.latest_complete_run(config.metadata_path), _FOLDS, lambda results: None).suspects
    shown = {suspect.key: by_key[suspect.key] for suspect in suspects}
    corrections = settings.with_name("corrections.csv")
    with corrections.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("key", "label"), *((key, chosen[at].label) for key, at in shown.items())])
    command("data", "correct", str(corrections), "--config", str(settings))
    command("run", "--config", str(settings), "--set", "evaluator.max_regression=1", exit_codes=(0, NOT_PUSHED))
    read_corrected = right(part.test, readings(config, test), spec)
    clean = prepared(f"audit-{name}-{seed}-clean", spec, chosen)
    import_and_run(clean)
    return {
        "case": name,
        "seed": seed,
        "labels": len(chosen),
        "planted": len(planted),
        "shown": len(shown),
        "found": len(planted.keys() & set(shown.values())),
        "read_wrong": read_wrong,
        "read_corrected": read_corrected,
        "read_clean": right(part.test, readings(load_config(clean), test), spec),
        "test": len(part.test),
        "machine": machine(),
    }


def plant(pictures: Sequence[Labelled], spec: CaptchaSpec, seed: int) -> dict[int, str]:
    """Returns wrong labels for some pictures, by index in the sequence. In every second one, the wrong character looks like the right one.

    Args:
      pictures: with their right labels.
      spec: gives the charset.
      seed: chooses the pictures and the wrong characters.
    """
    generator = random.Random(seed)
    wrong = {}
    for number, at in enumerate(generator.sample(range(len(pictures)), round(_WRONG * len(pictures)))):
        label = spec.canonical(pictures[at].label)
        alike = [place for place, character in enumerate(label) if _alike(character, spec)]
        place = generator.choice(alike) if number % 2 and alike else generator.randrange(len(label))
        others = (_alike(label[place], spec) if number % 2 else []) or [other for other in spec.characters if other != label[place]]
        wrong[at] = label[:place] + generator.choice(others) + label[place + 1 :]
    return wrong


def _alike(character: str, spec: CaptchaSpec) -> list[str]:
    return [other for group in _LOOK_ALIKE if character in group for other in group if other != character and other in spec.characters]


def table(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows of the table: one row for each case."""
    columns = [
        "set",
        "labels",
        "seeds",
        "made wrong",
        "found (95 %)",
        "right (95 %)",
        "goals",
        "test pictures",
        "read: wrong labels",
        "corrected",
        "right from the start",
    ]
    groups: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["case"]][row["seed"]] = row
    lines = []
    for name, by_seed in sorted(groups.items()):
        runs = [by_seed[seed] for seed in sorted(by_seed)]
        total = {column: sum(run[column] for run in runs) for column in ("planted", "shown", "found")}
        lines.append(
            [
                _CASES[name][0],
                f"{runs[0]['labels']:,}",
                str(len(runs)),
                str(total["planted"]),
                _share(total["found"], total["planted"]),
                _share(total["found"], total["shown"]),
                " and ".join(f"{goal:.0%}" for goal in _GOALS),
                f"{runs[0]['test']:,}",
                *(
                    ", ".join(f"{run[column] / run['test']:.1%}" for run in runs)
                    for column in ("read_wrong", "read_corrected", "read_clean")
                ),
            ]
        )
    return columns, lines


def _share(part: int, of: int) -> str:
    rate = wilson_interval(part, of, _CONFIDENCE)
    return f"{part} of {of}: {rate.value:.0%} ({rate.lower:.0%} to {rate.upper:.0%})"


if __name__ == "__main__":
    silence()
    typer.run(main)
