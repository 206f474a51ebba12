"""The command line. Heavy modules are imported where they are used, so that help comes at once.

Exit codes: 0 done (the model of the run is in production); 1 it failed, and the message says why; 2 wrong usage;
3 the run is complete but the model was not blessed, or is withdrawn, so nothing was pushed, or the import is complete but pictures with
two labels were left out; 130 stopped by Ctrl-C or SIGTERM.
"""

import dataclasses
import importlib.metadata
import io
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from components.base.disk import writing_in
from components.base.errors import Busy, CaptchaPipelineError
from components.base.files import locked
from pipeline.cli.config import config_app
from pipeline.cli.data import data_app
from pipeline.cli.kubeflow import kubeflow_app
from pipeline.cli.options import BeamOption, ConfigOption, SetOption
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow, silence

if TYPE_CHECKING:
    from pipeline.config.config import Config

NOT_PUSHED = 3
STOPPED = 130  # as a shell says of a program that Ctrl-C has ended


class Split(str, Enum):
    train = "train"
    eval = "eval"
    test = "test"


app = typer.Typer(
    name="captcha-pipeline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no model was pushed or pictures with two labels were left out, 130 stopped.",
)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(kubeflow_app, name="kubeflow")
console = Console()


def main() -> None:
    """The console script: prints what the user can put right without a traceback."""
    silence()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that has no sign for a character is no reason to fail
    try:
        with writing_in():
            app()
    except CaptchaPipelineError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _captcha_pipeline(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Learn to read fixed-length text images: from labelled pictures to a served model.

    Begin with `captcha-pipeline data synth`, then `captcha-pipeline run`.
    """
    if version:
        console.print(f"captcha-pipeline {importlib.metadata.version('captcha-pipeline')}", highlight=False)
        raise typer.Exit


@contextmanager
def _stoppable(what_next: str) -> Iterator[None]:
    """Has Ctrl-C and SIGTERM end a command with STOPPED and a word on what comes next.

    The kernel drops a SIGTERM for which a container's first process has no handler.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Stopped. {what_next}", highlight=False, soft_wrap=True)
        raise typer.Exit(STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


_RUN_GOES_ON: Final = "The next run takes up after the last complete step, and in the Trainer after the last epoch."


@app.command()
@_stoppable(_RUN_GOES_ON)
def run(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None, beam: BeamOption = None) -> None:
    """Run the whole pipeline on this machine: check the data, train, evaluate, and push the model if it is good enough.

    Steps whose input, configuration and code have not changed are reused. Example:

        captcha-pipeline run --config configs/digits.yaml --set trainer.epochs=3
    """
    from pipeline.config.loading import load_config
    from pipeline.runs import history
    from pipeline.runs.policy import current_attempt

    settings = load_config(config, overrides, beam=beam)
    _run(settings, "by hand", current_attempt(settings, history.runs(settings.metadata_path)))


@app.command()
@_stoppable(_RUN_GOES_ON)
def retrain(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    force: Annotated[bool, typer.Option("--force", help="Make another model even if nothing has changed.")] = False,
) -> None:
    """Run the pipeline if there is a reason to, and say which: new data, drift, a model that reads badly or is old, a run cut short.

    Made for cron: without a reason, or while a run is at work, it ends at once, with 0. `captcha-pipeline config` shows the section
    `retraining`.
    """
    from pipeline.config.loading import load_config
    from pipeline.runs.policy import reason_to_retrain

    settings = load_config(config, overrides, beam=beam)
    at_work = f"A run (process {{}}) is at work in {Path(settings.run_lock).parent}."
    try:
        with locked(Path(settings.run_lock), at_work):  # else that run would be taken for one that was cut short
            reason = reason_to_retrain(settings, force=force)
        if reason is None:
            _name_what_servers_cannot_use(settings)
            console.print("Nothing to do: there is no reason to train anew.")
            return
        console.print(f"Retraining: {reason.words}", highlight=False, soft_wrap=True)
        _run(settings, reason.words, reason.attempt)
    except Busy as busy:
        console.print(f"Nothing to do now: {busy}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def schedule(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    cron: Annotated[str | None, typer.Option(help="As in a crontab: '0 3 * * *' is at three every night, here.")] = None,
) -> None:
    """Retrain by cron until stopped, one run at a time; without --cron, say what is on record of the last time.

    Events are JSON lines on standard output; what the runs print is in ROOT/NAME/retrain.log.
    """
    from pipeline.config.loading import load_config
    from pipeline.runs.scheduler import Scheduler, retrain_command, status

    settings = load_config(config, overrides, beam=beam)
    if cron is None:
        console.print_json(data=status(Path(settings.root) / settings.name))
    else:
        Scheduler(settings, cron, retrain_command(config, overrides or [], beam)).serve()


@app.command()
@_stoppable("The same command takes up after the last complete trial.")
def tune(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Fits, the first with the present values.")] = 12,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split, each fit (default: as in a run)")] = None,
) -> None:
    """Search for a better learning rate, batch size, label smoothing and shift. Runs use what it finds from then on.

    What the configuration sets is left as it is. Judged on the eval split; the test split is not touched. Example:

        captcha-pipeline tune --config configs/digits.yaml --trials 20
    """
    from pipeline.config.loading import load_config
    from pipeline.runners.beam.engine_check import check_engines_of

    settings = load_config(config, overrides, beam=beam, tuned=False)
    check_engines_of(settings)
    load_tensorflow()
    from pipeline.reporting import tables
    from pipeline.runners import local

    with tables.StepProgress(console) as progress:
        found = local.tune(settings, trials, epochs or settings.trainer.epochs_parameter, progress.on_step)
    _clean_up(settings)
    tables.print_trials(console, found)
    console.print(f"Written to {settings.tuned_path}: runs use it. Remove it to have the defaults back.", highlight=False, soft_wrap=True)


@app.command()
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


@app.command("cross-validate")
@_stoppable("Nothing of it is kept.")
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


@app.command()
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


@app.command()
def runs(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    version: Annotated[str | None, typer.Option(help="Show what this pushed version was made from.")] = None,
) -> None:
    """List the runs: why, on which spans, how the model reads and the one in production, what was decided; or the lineage of a version."""
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    from components.serving.serving_dir import original
    from pipeline.reporting import tables
    from pipeline.runs.lineage import lineage
    from pipeline.runs.outcomes import production, retrainings

    if version:
        tables.print_lineage(console, lineage(settings.metadata_path, original(settings.serving_dir, version)))
    else:
        tables.print_retrainings(console, retrainings(settings), production(settings))
        _name_what_servers_cannot_use(settings)


@app.command()
def rollback(
    version: Annotated[int, typer.Argument(help="To put back into production; `runs` lists them.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> None:
    """Serve an earlier version again: a copy of it becomes the newest. What was pushed after it is withdrawn, and not pushed again."""
    from components.serving.serving_dir import roll_back
    from pipeline.config.loading import load_config

    pushed = roll_back(load_config(config, overrides).serving_dir, version)
    console.print(f"Version {version} is in production again, as {pushed.version} in {pushed.path.parent}", highlight=False, soft_wrap=True)


@app.command()
def report(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Write the HTML report of the latest complete run again and say where it is."""
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.reporting import results
    from pipeline.runs import history

    outcome = results.outcome(settings, history.latest_complete_run(settings.metadata_path))
    results.write_report(settings, outcome)
    console.print(f"Report: {outcome.report}", highlight=False, soft_wrap=True)


@app.command()
def trend(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Write the HTML page over all runs, as every run does at its end, and say where it is."""
    from pipeline.config.loading import load_config
    from pipeline.reporting.trend import write_trend_page

    page = write_trend_page(load_config(config, overrides))
    console.print(f"Trend: {page}", highlight=False, soft_wrap=True)


@app.command()
def gc(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and how much room that frees; remove nothing.")] = False,
) -> None:
    """Remove what old runs have left: artifacts, logs, searches, checkpoints and reports that no kept run needs.

    Kept are the newest `gc.keep_runs` runs, and those whose version is in the serving folder. The history stays whole. Example:

        captcha-pipeline gc --dry-run --set gc.keep_runs=2
    """
    from pipeline.config.loading import load_config
    from pipeline.garbage import collect
    from pipeline.reporting import tables

    tables.print_garbage(console, collect(load_config(config, overrides), dry_run=dry_run), dry_run=dry_run)


def _name_what_servers_cannot_use(settings: "Config") -> None:
    from components.serving.serving_dir import unservable_warning

    if found := unservable_warning(settings.serving_dir):
        console.print(f"[bold yellow]Not servable[/]: {escape(found)}", highlight=False, soft_wrap=True)


def _run(settings: "Config", trigger: str, attempt: int) -> None:
    from pipeline.runners.beam.engine_check import check_engines_of

    _name_what_servers_cannot_use(settings)
    check_engines_of(settings)
    load_tensorflow()
    from pipeline.reporting import results, tables
    from pipeline.reporting.trend import write_trend_page
    from pipeline.runners import local

    with tables.StepProgress(console) as progress:
        record = local.run(settings, progress.on_step, trigger, attempt)
    outcome = results.outcome(settings, record)
    tables.print_outcome(console, outcome)
    if outcome.changed or not outcome.report.exists():
        with console.status("Writing the report"):
            shown = results.write_report(settings, outcome)
        tables.print_advice(console, shown.advice)
    _clean_up(settings)
    console.print(f"Report: {outcome.report}\nTrend: {write_trend_page(settings)}", highlight=False, soft_wrap=True)
    if not outcome.in_production:
        raise typer.Exit(NOT_PUSHED)


def _clean_up(settings: "Config") -> None:
    """Removes what old runs have left, if the configuration says so. The run is complete whatever becomes of that."""
    from pipeline.garbage import collect
    from pipeline.reporting import tables

    if not settings.gc.after_run:
        return
    try:
        garbage = collect(settings)
    except CaptchaPipelineError as error:
        console.print(f"[bold yellow]Old runs stay[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
    else:
        if garbage.leftovers:
            console.print(f"Removed what old runs had left: {tables.room(garbage.size)}", highlight=False)
