"""`captcha-pipeline run`, `retrain`, `schedule` and `tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from components.base.errors import Busy, CaptchaPipelineError
from components.base.files import locked
from pipeline.cli.options import BeamOption, ConfigOption, SetOption
from pipeline.cli.terminal import NOT_PUSHED, console, stoppable, warn_of_unservable_models
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow

if TYPE_CHECKING:
    from pipeline.config.config import Config
    from pipeline.runs.history import RunRecord
    from pipeline.runs.outcomes import Verdict

_RUN_GOES_ON: Final = "The next run resumes after the last completed step; the Trainer resumes after the last completed epoch."


@stoppable(_RUN_GOES_ON)
def run(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None, beam: BeamOption = None) -> None:
    """Run the whole pipeline on this machine: check the data, train a model, evaluate it, and push it if it is good enough.

    Steps whose inputs, configuration and code have not changed are reused from the cache. If nothing has changed since the last run,
    its result is shown.

    Example: captcha-pipeline run --config configs/digits.yaml --set trainer.epochs=3
    """
    from pipeline.config.loading import load_config
    from pipeline.runs import history
    from pipeline.runs.policy import current_attempt, repeated_run

    settings = load_config(config, overrides, beam=beam)
    runs = history.runs(settings.metadata_path)
    attempt = current_attempt(settings, runs)
    if last := repeated_run(settings, runs, attempt):
        _show(settings, last)
    else:
        _run(settings, "by hand", attempt)


@stoppable(_RUN_GOES_ON)
def retrain(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    force: Annotated[bool, typer.Option("--force", help="Train another model even if nothing has changed.")] = False,
) -> None:
    """Run the pipeline if there is a reason, and print the reason: new data, drift, low accuracy, an old model, an interrupted run.

    Made for cron: without a reason, or while another run is at work, it exits
    at once with 0. The section `retraining` of the configuration sets the
    reasons.
    """
    from pipeline.config.loading import load_config
    from pipeline.runs.policy import reason_to_retrain

    settings = load_config(config, overrides, beam=beam)
    at_work = f"A run (process {{}}) is at work in {Path(settings.run_lock).parent}."
    try:
        with locked(Path(settings.run_lock), at_work):  # without the lock, a run at work would look like an interrupted one
            reason = reason_to_retrain(settings, force=force)
        if reason is None:
            warn_of_unservable_models(settings)
            console.print("Nothing to do: no reason to retrain.")
            return
        console.print(f"Retraining: {reason.words}", highlight=False, soft_wrap=True)
        _run(settings, reason.words, reason.attempt)
    except Busy as busy:
        console.print(f"Nothing to do now: {busy}", highlight=False, markup=False, soft_wrap=True)


def schedule(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    cron: Annotated[
        str | None, typer.Option(help="Crontab line of five fields in local time, such as '0 3 * * *' for 03:00 every night.")
    ] = None,
) -> None:
    """Run `retrain` at the times of a crontab line, one run at a time, until stopped.

    Prints events as JSON lines; the output of the runs is in
    ROOT/NAME/retrain.log. Without --cron, prints the record of the last
    scheduled run and exits.
    """
    from pipeline.config.loading import load_config
    from pipeline.runs.scheduler import Scheduler, retrain_command, status

    settings = load_config(config, overrides, beam=beam)
    if cron is None:
        console.print_json(data=status(Path(settings.root) / settings.name))
    else:
        Scheduler(settings, cron, retrain_command(config, overrides or [], beam)).serve()


@stoppable("The same command resumes after the last completed trial.")
def tune(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of fits. The first uses the current values.")] = 12,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training split in each fit (default: as in a run).")] = None,
) -> None:
    """Search for a better learning rate, batch size, label smoothing and shift. Later runs use the best values.

    Values that the configuration sets are not changed. The eval split decides; the test split is not used.

    Example: captcha-pipeline tune --config configs/digits.yaml --trials 20
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
    console.print(
        f"Wrote the best values to {settings.tuned_path}. Runs use them. Remove the file to restore the defaults.",
        highlight=False,
        soft_wrap=True,
    )


def _show(settings: "Config", last: "RunRecord") -> None:
    """Prints the result of the last run, without an import of TensorFlow."""
    from pipeline.reporting import tables
    from pipeline.runs.outcomes import drift, judgement, report_path, verdict

    warn_of_unservable_models(settings)
    judged, found, report = judgement(last), drift(last), report_path(settings, last)
    # repeated_run has looked for them.
    assert judged is not None
    assert found is not None
    assert report is not None
    result = verdict(settings, last, judged)
    tables.print_repeated(console, result, judged, found)
    _end(settings, result, report)


def _run(settings: "Config", trigger: str, attempt: int) -> None:
    from pipeline.runners.beam.engine_check import check_engines_of

    warn_of_unservable_models(settings)
    check_engines_of(settings)
    load_tensorflow()
    from pipeline.reporting import results, tables
    from pipeline.runners import local

    with tables.StepProgress(console) as progress:
        record = local.run(settings, progress.on_step, trigger, attempt)
    result = results.result_of(settings, record)
    tables.print_result(console, result)
    if result.changed or not result.report.exists():
        with console.status("Writing the report"):
            shown = results.write_report(settings, result)
        tables.print_advice(console, shown.advice)
    _clean_up(settings)
    _end(settings, result.verdict, result.report)


def _end(settings: "Config", verdict: "Verdict", report: Path) -> None:
    """Names the pages about a run. Exits with NOT_PUSHED if its model is not in production."""
    from pipeline.reporting.trend import write_trend_page

    console.print(f"Report: {report}\nTrend: {write_trend_page(settings)}", highlight=False, soft_wrap=True)
    if not verdict.in_production:
        raise typer.Exit(NOT_PUSHED)


def _clean_up(settings: "Config") -> None:
    """Removes output of old runs, if `gc.after_run` is set. A failure is only a warning, because the run is complete."""
    from pipeline.garbage import collect
    from pipeline.reporting import tables

    if not settings.gc.after_run:
        return
    try:
        garbage = collect(settings)
    except CaptchaPipelineError as error:
        console.print(f"[bold yellow]Old output was not removed[/]: {escape(str(error))}", highlight=False, soft_wrap=True)
    else:
        if garbage.leftovers:
            console.print(f"Removed output of old runs: {tables.room(garbage.size)}", highlight=False)


COMMANDS: Final = (run, retrain, schedule, tune)
