"""`captcha-pipeline evaluate`, `cross-validate`, `audit`, `plan`, `strength` and `predict`."""

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
    model: Annotated[Path | None, typer.Option(help="Version folder of a model (default: the newest pushed version).")] = None,
    split: Annotated[Split, typer.Option(help="Split to measure the model on.")] = Split.test,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a model's accuracy on one split of the window of spans. Trains and pushes nothing."""
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.inference import evaluation
    from pipeline.inference.versions import newest_model
    from pipeline.reporting import tables

    directory = model or newest_model(settings)
    results = evaluation.evaluate(settings, directory, split.value)
    if as_json:
        print(json.dumps(tables.accuracy_as_json(results)))
    else:
        tables.print_accuracy(console, results, f"{directory} on the {split.value} split")


@stoppable("No result was kept.")
def cross_validate(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Number of folds, and of fits. Each fit leaves out one fold.")] = 5,
) -> None:
    """Measure a configuration by cross-validation, for data with few pictures. Each picture is read by a model that was not trained on it.

    Uses the train and eval splits of the latest complete run, not its test split. Pushes nothing.
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


@stoppable("No result was kept.")
def audit(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Number of folds, and of fits. Each fit leaves out one fold.")] = 5,
) -> None:
    """Find labels that are probably wrong, and write a page on which you decide about them. Changes and pushes nothing.

    Uses all splits of the latest complete run. Each picture is read by a model that was not trained on it. `data correct` takes the
    table that the page saves.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.reporting import label_tables, tables
    from pipeline.reporting.audit_page import write_audit
    from pipeline.runs import history
    from pipeline.runs.audit import audit

    run = history.latest_complete_run(settings.metadata_path)
    with console.status(f"{folds} fits …"):
        result = audit(settings, run, folds, lambda so_far: tables.print_fold(console, so_far))
    page = write_audit(settings.name, result, settings.captcha, Path(settings.audit_dir))
    label_tables.print_audit(console, result, page)


@stoppable("No result was kept.")
def plan(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Estimate what more labels would bring: accuracy by number of labels, and the labels that an accuracy needs. Pushes nothing.

    Fits models to an eighth, a quarter and a half of the labels of the latest complete run, and extrapolates.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.reporting import label_tables
    from pipeline.runs import history
    from pipeline.runs.cross_validation import plan

    run = history.latest_complete_run(settings.metadata_path)
    with console.status("Fits to parts of the labels …"):
        result = plan(settings, run, lambda fit: label_tables.print_fit(console, fit))
    label_tables.print_plan(console, result)


@stoppable("No result was kept.")
def strength(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Measure what a captcha of yours withstands, and write a page about it. For captchas that you own or were asked to test.

    Fits models to growing parts of the train and eval splits of the latest complete run: how many labels and CPU minutes does an attacker
    need to read 10, 50 and 90 % of the pictures, and which characters and positions fall first? Tries ready-made OCR. Where `data synth`
    draws the pictures, it also tries changes of the style. Pushes nothing.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from components.data.spans import list_spans
    from pipeline.reporting import label_tables
    from pipeline.reporting.strength_page import write_strength
    from pipeline.runs import history
    from pipeline.runs.strength import strength

    run = history.latest_complete_run(settings.metadata_path)
    spans = [span for span in list_spans(settings.data.root) if span.number in run.spans]
    with console.status("Fits to parts of the labels …"):
        result = strength(settings, run, spans, lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
    page = write_strength(settings.name, result, Path(settings.strength_dir))
    label_tables.print_strength(console, result, page)


def predict(
    files: Annotated[list[Path], typer.Argument(help="Picture files to read.", metavar="FILE…")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    model: Annotated[Path | None, typer.Option(help="Version folder of a model (default: the newest pushed version).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of a table.")] = False,
) -> None:
    """Read picture files with a pushed model, and print text and confidence.

    If `captcha-pipeline export --format onnx` has exported the model, the export reads them, which starts several times as fast.
    A file that cannot be read is reported, and the other files are still read. The exit code is then 1.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    from pipeline.inference import prediction
    from pipeline.inference.versions import newest_model, quick_export
    from pipeline.reporting import tables

    directory = model or newest_model(settings)
    export = quick_export(settings, directory)
    if export is None:
        load_tensorflow(with_keras=False)
    answers = prediction.predict(settings, directory, files, export)
    if as_json:
        for answer in answers:
            print(json.dumps(dataclasses.asdict(answer), ensure_ascii=False))
    else:
        tables.print_answers(console, answers)
    if any(answer.error for answer in answers):
        raise typer.Exit(1)


COMMANDS: Final = (evaluate, cross_validate, audit, plan, strength, predict)
