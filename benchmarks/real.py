"""Real pictures: this project's models (ours), compared with other published trainers and with readers that need no training.

    uv run --group readers python -m benchmarks.real --data FOLDER

FOLDER has a folder for each set (benchmarks/real_sets.py says which files are read, and how a set is divided). Each row of the table is a
set, a reader and a number of labels; `--labels 200 --labels 300` adds rows with only 200 and 300 training pictures. Nothing is chosen on a
test part: charset, length, size and channels come from the training pictures, as `captcha-pipeline config suggest` proposes them, and all
other settings of ours are the defaults.

The trainers (benchmarks/peers.py) have two rows each: limited to the seconds that our fit took, and limited to `--peer-minutes`. The
untrained readers have the settings that do best on 200 of the training pictures (benchmarks/readers.py). Readers that are not installed
are reported as such.

The result of each fold is stored at once, and the table is made from all stored results. Readers, sets and folds can therefore run one by
one, ours before the trainers. All of them take hours: one fit of ours for each fold and number of labels, and two fits of each trainer.
"""

import csv
import re
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml

from benchmarks.peers import CRNN, FAST_PLATE_OCR, NotInstalled, fit_and_read
from benchmarks.readers import best_reader
from benchmarks.real_sets import FOLDS, Division, Labelled, Part, divisions, first, spec_of
from benchmarks.results import FOLDER, keep, kept, machine, record
from benchmarks.season import fit_of
from benchmarks.tasks import Picture, command
from components.data.captcha_spec import CaptchaSpec
from components.evaluation.metrics import wilson_interval
from pipeline.cli.data_output import CONTRADICTED
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.inference.untrained import Reader, ddddocr_readers, tesseract_readers
from pipeline.logs import load_tensorflow, silence

OURS: Final = "ours"
_TRAINERS: Final = (FAST_PLATE_OCR, CRNN)
_UNTRAINED: Final[dict[str, Callable[[CaptchaSpec], Iterator[tuple[str, Reader]]]]] = {
    "ddddocr": ddddocr_readers,
    "tesseract": tesseract_readers,
}
READERS: Final = (OURS, *_TRAINERS, *_UNTRAINED)
_NAME: Final = "real"
_TABLE: Final = "train.csv"
_CHOICE_PICTURES: Final = 200  # of the training pictures, to choose the settings of an untrained reader
_CONFIDENCE: Final = 0.95
_SECONDS: Final = 60

_DATA: Final = Path("data/benchmarks/real")
_OUTPUT: Final = Path("output/benchmarks/real")

Row = dict[str, Any]
"""The stored result of one fold: set, labels (null: all), fold, folds, train, test, machine, reader, read; fits: fit_s; ours: whole_s."""


def main(
    data: Annotated[Path, typer.Option(help="a folder with a folder for each set")],
    readers: Annotated[str, typer.Option(help="comma-separated")] = ",".join(READERS),
    labels: Annotated[list[int] | None, typer.Option(min=1, help="also train with only this many pictures; can be repeated")] = None,
    folds: Annotated[int, typer.Option(min=1, max=FOLDS, help="number of folds to run of a set that has folds")] = FOLDS,
    peer_minutes: Annotated[float, typer.Option(min=0.1, help="time limit of the second fit of each other trainer")] = 20,
) -> None:
    chosen = readers.split(",")
    if unknown := sorted(set(chosen) - set(READERS)):
        raise typer.BadParameter(f"Unknown reader: {', '.join(unknown)}. Choose from {', '.join(READERS)}.")
    missing: set[str] = set()
    for division, fold, part, number in _rounds(divisions(data), labels or [], folds):
        for reader in chosen:
            try:
                for row in measure(reader, division, fold, part, number, peer_minutes):
                    keep(_NAME, row)
            except NotInstalled:
                missing.add(reader)
    notes = [
        "Each test picture is read by a model that was not trained on any file with the same bytes. The folds are summed.",
        "Full sequence: the whole label is right. Case is ignored for sets with a single case. Seconds are medians over the folds.",
        "Run time: the import and every step of the pipeline, including the push. For the other trainers only the fit is timed.",
        "Rows without times: the machine did other work meanwhile.",
        "The other trainers hold out a tenth of their pictures to decide when to stop; ours uses its normal splits.",
        f"Untrained readers have the settings that do best on up to {_CHOICE_PICTURES} of the training pictures.",
        *(f"{reader}: not installed." for reader in sorted(missing)),
    ]
    record(_NAME, "Real pictures: ours, other trainers and untrained readers", *table(_rows()), notes, "uv run --group readers python")


def _rounds(found: Sequence[Division], labels: Sequence[int], folds: int) -> Iterator[tuple[Division, int, Part, int | None]]:
    for division in found:
        for number in (None, *labels):
            for fold, part in enumerate(division.parts[:folds]):
                if number is None:
                    yield division, fold, part, None
                elif number < len(part.train):
                    yield division, fold, first(part, number), number


def measure(reader: str, division: Division, fold: int, part: Part, number: int | None, minutes: float) -> Iterator[Row]:
    """Yields the result rows of a reader on a part: two for another trainer; no row for an untrained reader with fewer labels.

    Args:
      reader: one of READERS.
      division: the set that the part belongs to.
      fold: index of the part in the division.
      part: may have fewer training pictures than the part in the division.
      number: the reduced number of training pictures; None for all.
      minutes: time limit of a trainer's second fit.

    Raises:
      NotInstalled: a package or program that the reader needs is not installed.
    """
    spec = spec_of(part.train)
    about: Row = {
        "set": division.name,
        "labels": number,
        "fold": fold,
        "folds": len(division.parts),
        "train": len(part.train),
        "test": len(part.test),
        "machine": machine(),
    }
    name = re.sub(r"[^a-z0-9]+", "-", f"{division.name}-{number or 'all'}-{fold}".lower()).strip("-")
    if reader == OURS:
        yield about | {"reader": reader} | _ours(name, spec, part)
    elif reader in _TRAINERS:
        limits = {f"{reader}, up to {minutes:g} minutes": minutes * _SECONDS}
        if ours := [row for row in _rows() if row["reader"] == OURS and about.items() <= row.items()]:
            limits = {f"{reader}, as long as ours": ours[-1]["fit_s"]} | limits
        for label, seconds in limits.items():
            fitted = fit_and_read(reader, spec, part.train, part.test, seconds, _OUTPUT / name / reader)
            outcome = {"read": right(part.test, fitted.readings, spec), "fit_s": round(fitted.seconds, 1), "epochs": fitted.epochs}
            yield about | {"reader": label} | outcome
    elif number is None:
        yield about | {"train": 0, "reader": reader} | _untrained(reader, spec, part)


def right(test: Sequence[Labelled], readings: Sequence[str], spec: CaptchaSpec) -> int:
    """Returns the number of pictures whose whole label is read, ignoring case if the spec does."""
    fold = str if spec.case_sensitive else str.casefold
    return sum(fold(picture.label) == fold(reading) for picture, reading in zip(test, readings, strict=True))


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and the rows: one row per set, number of labels and reader, for all folds. The newest result of a fold counts."""
    columns = [
        "set",
        "training pictures",
        "reader",
        "test pictures",
        "full-sequence accuracy (95 % interval)",
        "median fit time",
        "median run time",
    ]
    groups: dict[tuple[str, int | None, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["set"], row["labels"], row["reader"]][row["fold"]] = row
    lines = []
    for (name, _, reader), by_fold in sorted(groups.items(), key=_order):
        runs = list(by_fold.values())
        tested, folds = sum(run["test"] for run in runs), runs[0]["folds"]
        rate = wilson_interval(sum(run["read"] for run in runs), tested, _CONFIDENCE)
        of = f"{len(runs)}" if len(runs) == folds else f"{len(runs)} of {folds}"
        lines.append(
            [
                name,
                f"{statistics.median_low(run['train'] for run in runs):,}" if runs[0]["train"] else "none",
                reader,
                f"{tested:,} in {of} folds" if folds > 1 else f"{tested:,}",
                f"{rate.value:.2%} ({rate.lower:.2%} to {rate.upper:.2%})",
                *(
                    f"{statistics.median(run[seconds] for run in runs):.0f} s" if all(seconds in run for run in runs) else ""
                    for seconds in ("fit_s", "whole_s")
                ),
            ]
        )
    return columns, lines


def _order(group: tuple[tuple[str, int | None, str], dict[int, Row]]) -> tuple[str, float, int]:
    (name, labels, reader), _ = group
    return name, labels or float("inf"), READERS.index(reader.partition(",")[0])


def _rows() -> list[Row]:
    return kept(_NAME) if (FOLDER / f"{_NAME}.jsonl").exists() else []


def _ours(name: str, spec: CaptchaSpec, part: Part) -> Row:
    """Imports, runs the pipeline and reads with the pushed model. Output of an earlier run is removed first."""
    settings = prepared(name, spec, part.train)
    start = time.perf_counter()
    import_and_run(settings)
    whole = time.perf_counter() - start
    config = load_config(settings)
    return {
        "read": right(part.test, readings(config, [picture.path for picture in part.test]), spec),
        "fit_s": round(sum(epoch["seconds"] for epoch in fit_of(config)), 1),
        "whole_s": round(whole, 1),
    }


def prepared(name: str, spec: CaptchaSpec, train: Sequence[Labelled]) -> Path:
    """Removes the output of an earlier run, writes a table of pictures and a configuration, and returns the path of the latter."""
    data = _DATA / name
    for folder in (data, _OUTPUT / name):
        shutil.rmtree(folder, ignore_errors=True)
    data.mkdir(parents=True)
    with (data / _TABLE).open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label"])
        lines.writerows([picture.path.resolve(), picture.label] for picture in train)
    settings = data / "config.yaml"
    about = {"name": name, "root": str(_OUTPUT), "captcha": spec.model_dump(mode="json"), "data": {"root": str(data / "spans")}}
    settings.write_text(yaml.safe_dump(about | {"evaluator": {"min_sequence_accuracy": 0}}, allow_unicode=True), encoding="utf-8")
    return settings


def import_and_run(settings: Path, *overrides: str) -> None:
    """Imports the table of `prepared`, runs the pipeline, and pushes the model."""
    command("data", "import", str(settings.with_name(_TABLE)), "--outside", "--config", str(settings), exit_codes=(0, CONTRADICTED))
    command("run", "--config", str(settings), *(word for override in overrides for word in ("--set", override)))


def readings(config: Config, files: Sequence[Path]) -> list[str]:
    """Returns what the newest pushed model reads in picture files; "" where it cannot read."""
    load_tensorflow(with_keras=False)
    from pipeline.inference.prediction import predict
    from pipeline.inference.versions import newest_model

    return [answer.text or "" for answer in predict(config, newest_model(config), files)]


def _untrained(reader: str, spec: CaptchaSpec, part: Part) -> Row:
    try:
        settings = dict(_UNTRAINED[reader](spec))
    except (ImportError, FileNotFoundError) as error:
        raise NotInstalled(reader) from error
    shown = [Picture(picture.label, picture.path.read_bytes()) for picture in part.train[:_CHOICE_PICTURES]]
    setting, read = best_reader(settings, shown, spec.case_sensitive)
    return {"read": right(part.test, [read(picture.path.read_bytes()) for picture in part.test], spec), "setting": setting}


if __name__ == "__main__":
    silence()
    typer.run(main)
