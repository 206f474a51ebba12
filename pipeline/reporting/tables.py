"""Prints the tables and messages of the commands."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import rich.filesize
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from components.data.drift import complain
from components.data.spans import span_name
from components.evaluation.gate import ALL, BEST, GOLDEN, NEWEST, SetResult, with_interval
from components.evaluation.metrics import Rate, Results
from pipeline.reporting.figures import FIGURES
from pipeline.reporting.filters import ranges
from pipeline.runs.history import RunRecord, StepRecord
from pipeline.runs.lineage import Lineage

if TYPE_CHECKING:  # Some of these modules import TensorFlow, which the list of runs does not need.
    from pipeline.garbage import Garbage
    from pipeline.inference.prediction import Answer
    from pipeline.reporting.results import RunResult
    from pipeline.runs.outcomes import Judgement, Verdict
    from pipeline.runs.retraining import Production, Retraining


class StepProgress:
    """Shows the running step, and prints a line for each step that has ended."""

    def __init__(self, console: Console):
        self._console = console
        self._status = Status("Starting", console=console)

    def __enter__(self) -> "StepProgress":
        self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._status.stop()

    def on_step(self, name: str, event: str) -> None:
        """Shows the step `name` as running if `event` is "running", and as ended otherwise."""
        if event == "running":
            self._status.update(f"{name} …")
        else:
            self._console.print(f"[green]✓[/] {name}", highlight=False)


def print_result(console: Console, result: "RunResult") -> None:
    """Prints the result of a run: seconds per step, accuracy with intervals, warnings, drift and verdict."""
    _print_steps(console, result.run.steps)
    print_accuracy(console, result.evaluation.results, f"{result.name} on the test split")
    _print_judgement(console, result.sets, result.warnings, result.drift)
    _print_verdict(console, result.verdict)
    if not result.changed:
        console.print("Nothing has changed since an earlier run: every step was cached.", highlight=False)


def print_repeated(console: Console, verdict: "Verdict", judged: "Judgement", drift: Mapping[str, Any]) -> None:
    """Prints that a run would repeat an earlier one, and the result of that run without its tables of steps and positions."""
    console.print(f"Nothing has changed since the run of {_time(verdict.run)}. Its result:", highlight=False)
    every = judged.sets[ALL]
    console.print(f"Full sequence on {every.count:,} test pictures: {with_interval(every.candidate)}", highlight=False)
    _print_judgement(console, judged.sets, judged.warnings, drift)
    _print_verdict(console, verdict, repeated=True)


def _print_judgement(console: Console, sets: Mapping[str, SetResult], warnings: Sequence[str], drift: Mapping[str, Any]) -> None:
    if len(sets) > 1 or sets[ALL].production:
        _print_sets(console, sets)
    for warning in warnings:
        console.print(f"[bold yellow]Warning[/]: {escape(warning)}", highlight=False, soft_wrap=True)
    if complaint := complain(drift):
        console.print(f"[bold yellow]Drift[/]: {escape(complaint)}", highlight=False)


def _print_verdict(console: Console, verdict: "Verdict", *, repeated: bool = False) -> None:
    """Prints whether the model of a run is in production, or why not.

    Args:
      console: where to print.
      verdict: the verdict on the model.
      repeated: whether an earlier run has printed it already.
    """
    now, version, folder = verdict.production, verdict.run.pushed_version, verdict.serving_dir
    newest = f"Version {now.version} is in production." if now else f"{folder} has no version: no model is in production."
    if not verdict.blessed:
        lines = ["[bold yellow]Not blessed[/], nothing was pushed:", *(f"  {escape(failure)}" for failure in verdict.failures)]
    elif verdict.in_production and now:
        pushed = not repeated and verdict.run.state_of("AtomicPusher") == "done"
        where = f"pushed as version {now.version} to" if pushed else f"in production as version {now.version} in"
        lines = [f"[bold green]Blessed[/], {where} {escape(folder)}"]
    elif verdict.withdrawn:
        lines = [f"[bold yellow]Withdrawn[/] by a rollback, not pushed again: new data will make a new model. {newest}"]
    elif version:
        # A cached push copies nothing: TFX does not see later changes in the serving folder.
        gone = "which has since been removed or replaced by a newer version"
        again = "`captcha-pipeline retrain --force` trains another model."
        lines = [f"[bold yellow]Nothing was pushed[/]: an earlier run pushed this model as version {version}, {gone}. {newest} {again}"]
    else:
        lines = [f"[bold yellow]Blessed, but not pushed[/]: see run.log for the reason. {newest}"]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def print_advice(console: Console, advice: Sequence[str]) -> None:
    """Prints advice for a model below the accuracy floor, one line per item."""
    if advice:
        console.print("How to improve the model:", highlight=False)
    for line in advice:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def print_accuracy(console: Console, results: Results, title: str) -> None:
    """Prints full-sequence and per-position accuracy with their intervals, as defined in `components.evaluation.metrics.Results`."""
    table = Table(title=title, title_justify="left")
    for column in ("accuracy", "%", "interval"):
        table.add_column(column, justify="left" if column == "accuracy" else "right")
    rates = [("full sequence", results.sequence_accuracy)]
    rates += [(f"position {i}", rate) for i, rate in enumerate(results.position_accuracy, start=1) if not math.isnan(rate.value)]
    for name, rate in rates:
        table.add_row(name, percent(rate).removesuffix(" %"), f"{rate.lower:.2%} to {rate.upper:.2%}".replace("%", " %"))
    console.print(table)
    if (results.position_count != results.example_count).any():
        console.print("The accuracy of a position counts only pictures whose label has a character there.", highlight=False)
    figures = (f"{figure.name} {figure.text(results)}" for figure in FIGURES)
    console.print("; ".join((f"{results.example_count:,} pictures", *figures)), highlight=False)


def print_fold(console: Console, so_far: Results) -> None:
    """Prints the accuracy over the completed folds."""
    rate = so_far.sequence_accuracy
    interval = f"{rate.lower:.2%} to {rate.upper:.2%}"
    console.print(f"{so_far.example_count:,} pictures read: full sequence {percent(rate)} ({interval})", highlight=False)


def accuracy_as_json(results: Results) -> dict[str, object]:
    """Returns the figures of `print_accuracy` as a JSON tree. A position that no label reaches is None."""
    return {
        "example_count": results.example_count,
        "sequence_accuracy": dataclasses.asdict(results.sequence_accuracy),
        "position_accuracy": [None if math.isnan(rate.value) else dataclasses.asdict(rate) for rate in results.position_accuracy],
    } | {figure.key: figure.compute(results) for figure in FIGURES}


def print_answers(console: Console, answers: "Sequence[Answer]") -> None:
    """Prints text and confidence for each file, or the reason why it could not be read."""
    table = Table()
    for column in ("file", "text", "confidence"):
        table.add_column(column, overflow="fold")
    for answer in answers:
        if answer.error:
            table.add_row(escape(answer.file), "[red]not read[/]", escape(answer.error))
        else:
            table.add_row(escape(answer.file), escape(answer.text or ""), f"{answer.confidence:.4f}")
    console.print(table)


def print_retrainings(console: Console, retrainings: "Sequence[Retraining]", production: "Production | None") -> None:
    """Prints one line per run, newest last, and then the version in production."""
    if not retrainings:
        console.print("There are no runs yet. Start one with `captcha-pipeline run`.", highlight=False)
        return
    caption = "newest %, golden %: full-sequence accuracy on that set; in brackets, that of the production model at the time"
    table = Table(box=None, pad_edge=False, caption=caption)
    for column in ("run", "trigger", "spans", "drift", "newest %", "golden %", "decision", "seconds"):
        right = column in ("newest %", "golden %", "seconds")
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=column == "run")
    for it in retrainings:
        decision = "; ".join((f"pushed as {it.version}" if it.decision == "pushed" else it.decision, *it.why, *it.warnings))
        table.add_row(
            _time(it),
            escape(it.trigger),
            ranges(it.spans) or "-",
            ", ".join(it.drifted) or "-",
            *(_against(it.sets.get(name)) for name in (NEWEST, GOLDEN)),
            escape(decision),
            f"{it.seconds:.0f}",
        )
    console.print(table)
    console.print(f"In production: {_in_production(retrainings, production)}", highlight=False, soft_wrap=True)


def _in_production(retrainings: "Sequence[Retraining]", production: "Production | None") -> str:
    from pipeline.runs.retraining import retraining_of

    if production is None:
        return "no model, the serving folder has no version"
    copy = f", a copy of {production.original} made by a rollback" if production.original != production.version else ""
    pushed_by = retraining_of(production, retrainings)
    origin = f"from the run of {_time(pushed_by)}" if pushed_by else "not pushed by any of these runs"
    return f"version {production.version}{copy}, {origin}"


def _time(run: "RunRecord | Retraining") -> str:
    return run.run_id[:16].replace("T", " ")


def _against(comparison: SetResult | None) -> str:
    if comparison is None:
        return "-"
    production = f" ({percent(comparison.production).removesuffix(' %')})" if comparison.production else ""
    return percent(comparison.candidate).removesuffix(" %") + production


def print_trials(console: Console, trials: Sequence[Mapping[str, float]]) -> None:
    """Prints one line per trial of a search, in the given order."""
    names = [name for name in trials[0] if name not in ("trial_id", "score")]
    table = Table(title="trials", title_justify="left")
    for column in (*names, "cross-entropy on eval"):
        table.add_column(column, justify="right")
    for trial in trials:
        table.add_row(*(f"{trial[name]:.3g}" for name in names), f"{trial['score']:.4f}")
    console.print(table)


def print_garbage(console: Console, garbage: "Garbage", *, dry_run: bool) -> None:
    """Prints the output of old runs that was removed, or would be removed, its size, and the unknown files that stay."""
    if garbage.leftovers:
        table = Table(box=None, pad_edge=False)
        table.add_column("would be removed" if dry_run else "removed", overflow="fold")
        table.add_column("size", justify="right")
        for leftover in garbage.leftovers:
            table.add_row(escape(leftover.name), room(leftover.size))
        table.add_section()
        table.add_row("all", room(garbage.size))
        console.print(table)
    else:
        console.print("Nothing to remove: kept runs need all output on record.", highlight=False)
    if garbage.unknown:
        console.print("Kept, because no run on record made these files:", highlight=False)
        for path in garbage.unknown:
            console.print(f"  {path}", highlight=False, markup=False, soft_wrap=True)


def room(size: int) -> str:
    """Returns `size` bytes as text in decimal units, such as "1.2 GB"."""
    return rich.filesize.decimal(size)


def print_lineage(console: Console, lineage: Lineage) -> None:
    """Prints the spans, the base model and the executions that made a version."""
    console.print(f"Version {lineage.version} was made from these spans (with the SHA-256 of their manifest.json):", highlight=False)
    for number, checksum in lineage.spans.items():
        console.print(f"  {span_name(number)} {checksum}", highlight=False, soft_wrap=True)
    if lineage.base:
        console.print(f"Its fit continued from version {lineage.base}.", highlight=False)
    if lineage.base_problem:
        console.print(lineage.base_problem, highlight=False, markup=False, soft_wrap=True)
    table = Table()
    for column in ("step", "run", "finished", "output"):
        table.add_column(column, overflow="fold")
    for step in lineage.steps:
        outputs = [uri for uris in step.outputs.values() for uri in uris]
        where = "removed by gc" if step.removed else "\n".join(outputs)
        table.add_row(step.node, step.run_id, f"{step.finished:%Y-%m-%d %H:%M:%S}", where)
    console.print(table)


def _print_sets(console: Console, sets: Mapping[str, SetResult]) -> None:
    title = f"full-sequence accuracy against the production model{' and the best model so far' if BEST in sets else ''}"
    table = Table(title=title, title_justify="left")
    for column in ("test set", "pictures", "this model %", "other model %", "p"):
        table.add_column(column, justify="left" if column == "test set" else "right")
    for name, part in sets.items():
        rates = [percent(rate).removesuffix(" %") if rate else "-" for rate in (part.candidate, part.production)]
        table.add_row(name, f"{part.count:,}", *rates, "-" if part.p_value is None else f"{part.p_value:.2g}")
    console.print(table)


def _print_steps(console: Console, steps: Sequence[StepRecord]) -> None:
    table = Table(title="steps", title_justify="left")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    for step in steps:
        table.add_row(step.node, "cached" if step.state == "cached" else f"{step.seconds or 0:.1f}")
    table.add_section()
    table.add_row("all", f"{sum(step.seconds or 0 for step in steps if step.state != 'cached'):.1f}")
    console.print(table)


def percent(rate: Rate) -> str:
    """Returns a rate as text, such as 98.40 %."""
    return "-" if math.isnan(rate.value) else f"{rate.value:.2%}".replace("%", " %")
