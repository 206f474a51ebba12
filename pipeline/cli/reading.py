"""`captcha-pipeline evaluate`, `cross-validate` and `predict`."""

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.terminal import console, stoppable
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow


class Split(str, Enum):
    train = "train"
    eval = "eval"
    test = "test"


def evaluate(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    model: Annotated[Path | None, typer.Option(help="A version folder; the newest pushed one if not given.")] = None,
    split: Annotated[Split, typer.Option(help="Which part of the data.")] = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a model on a split of the data in the window, without training or pushing anything."""
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.inference import evaluation
    from pipeline.inference.served_model import newest_model
    from pipeline.reporting import tables

    directory = model or newest_model(settings)
    results = evaluation.evaluate(settings, directory, split.value)
    if as_json:
        print(json.dumps(tables.accuracy_as_json(results)))
    else:
        tables.print_accuracy(console, results, f"{directory} on the {split.value} split")


@stoppable("Nothing of it is kept.")
def cross_validate(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Fits, each to all pictures but those of one fold.")] = 5,
) -> None:
    """Measure how well this configuration reads where pictures are few: each is read by a model that was fitted to others.

    Uses the pictures of the latest complete run, without its test split, and pushes nothing.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.reporting import tables
    from pipeline.runs import history
    from pipeline.runs.cross_validation import cross_validation

    run = history.latest_complete_run(settings.metadata_path)
    with console.status(f"{folds} fits …"):
        results = cross_validation(settings, run, folds, lambda so_far: tables.print_fold(console, so_far))
    tables.print_accuracy(console, results, f"{settings.name}, {folds} folds of the train and the eval split")


def predict(
    files: Annotated[list[Path], typer.Argument(help="Pictures to read.", metavar="FILE…")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    model: Annotated[Path | None, typer.Option(help="A version folder; the newest pushed one if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line instead of a table.")] = False,
) -> None:
    """Read pictures with the newest pushed model.

    A file that is not a picture is reported, the others are still read; the exit code is then 1.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow(with_keras=False)
    from pipeline.inference import prediction
    from pipeline.inference.served_model import newest_model
    from pipeline.reporting import tables

    answers = prediction.predict(settings, model or newest_model(settings), files)
    if as_json:
        for answer in answers:
            print(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
    else:
        tables.print_answers(console, answers)
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


COMMANDS: Final = (evaluate, cross_validate, predict)
