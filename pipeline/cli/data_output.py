"""What `captcha-pipeline data` prints: progress bars, the result of an import, the statistics of spans."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import typer

from components.base.features import SPLITS

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.table import Table

    from components.data.sources.corrections import Corrected
    from components.data.sources.index import Progress
    from components.data.sources.outcome import Imported
    from components.data.sources.sheet import SplitStatistics
    from components.data.sources.sift import ImportPlan
    from components.data.spans import Span

CONTRADICTED: Final = 3  # exit status: the command has done its work, but has left out pictures with two different labels


def tell(imported: "Imported", plan: "ImportPlan") -> None:
    """Prints the result of an import.

    Raises:
      typer.Exit: with the status CONTRADICTED, if pictures have two different labels.
    """
    if plan.dry_run:
        typer.echo(f"Would be imported: {counts_of(imported.counts)}, source {plan.source}. Nothing was written.")
    else:
        typer.echo(f"{describe(imported.span)}, source {plan.source}.")
    if imported.known:
        left_out = "left out" if plan.only_new else "imported again"
        typer.echo(f"{imported.known:,} already in a span with the same label: {left_out}.")
    if imported.alike:
        typer.echo(f"{imported.alike:,} look like a known picture (encoded again or resized): put into the split of that picture.")
    if plan.dry_run or set(imported.sizes) - {(plan.spec.width, plan.spec.height)}:
        sizes = ", ".join(f"{width}x{height} {count:,}" for (width, height), count in imported.sizes.most_common(5))
        typer.echo(f"Sizes: {sizes}{' …' if len(imported.sizes) > 5 else ''}. The configured size is {plan.spec.width}x{plan.spec.height}.")
    complain(imported)


def tell_corrections(corrected: "Corrected") -> None:
    """Prints the result of corrections.

    Raises:
      typer.Exit: with the status CONTRADICTED, if the table gives a picture two different labels.
    """
    labels, removed = corrected.counts.total(), corrected.removed
    typer.echo(
        f"{corrected.span.path} corrects {labels:,} label{'s' * (labels != 1)} and removes {removed:,} picture{'s' * (removed != 1)}."
    )
    if corrected.known:
        typer.echo(f"{corrected.known:,} pictures need no correction.")
    typer.echo("The next run leaves out their old records.")
    complain(corrected)


def complain(imported: "Imported") -> None:
    """Prints what may be wrong with an import or with corrections to standard error.

    Raises:
      typer.Exit: with the status CONTRADICTED, if pictures have two different labels.
    """
    if imported.doubtful.count:
        typer.echo(f"{imported.doubtful.count:,} look like a picture with a different label: {imported.doubtful}", err=True)
    for reason, found in imported.refused_pictures.items():
        typer.echo(f"{found.count:,} will be quarantined by the next run: {reason}: {found}", err=True)
    if imported.refused_labels:
        shown = "\n  ".join(imported.refused_labels[:5])
        typer.echo(
            f"{len(imported.refused_labels):,} will be quarantined by the next run: label refused by captcha.charset or captcha.length:\n"
            f"  {shown}",
            err=True,
        )
    if description := imported.describe():
        typer.echo(description, err=True)
    if imported.contradictions:
        raise typer.Exit(CONTRADICTED)


@contextmanager
def importing() -> Iterator["Progress"]:
    """Shows a progress bar on standard error. Gives the function to pass as the `progress` of an import."""
    with progress_bar("Importing", None) as (bar, task):
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def describe(span: "Span", verb: str = "now has") -> str:
    """Returns the path of a span, the verb, and the number of pictures in each split."""
    return f"{span.path} {verb} {counts_of(span.manifest.counts)}"


def counts_of(counts: Mapping[str, int]) -> str:
    """Returns numbers of pictures by split as text, such as "3 pictures (train 1, eval 1, test 1)"."""
    parts = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS)
    total = sum(counts.values())
    return f"{total:,} picture{'s' * (total != 1)} ({parts})"


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[tuple["Bar", "TaskID"]]:
    """Shows a progress bar on standard error, and removes it at the end. Gives the bar and its task.

    Args:
      what: the description.
      total: the number of steps; None if it is not known yet.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(what, total=total)


def statistics_table(statistics: "list[SplitStatistics]") -> "Table":
    """Returns a table with a row for each split."""
    from rich.table import Table

    table = Table("split", "pictures", "broken", "label length", "share per character", "size", "bytes per picture")
    for split in statistics:
        whole = split.records - split.broken
        lengths = split.lengths or {0: 1}
        length = f"{min(lengths)} to {max(lengths)}, mean {split.characters.total() / max(1, whole):.2g}"
        low, _, high = split.share_of_characters()
        sizes = [f"{width}x{height}" for (width, height), _ in split.sizes.most_common(3)]
        table.add_row(
            split.split,
            f"{split.records:,}",
            f"{split.broken:,}",
            length if len(lengths) > 1 else str(*lengths),
            f"{low:.1%} to {high:.1%}",
            ", ".join(sizes) + (" …" if len(split.sizes) > len(sizes) else ""),
            f"{split.stored_bytes / max(1, whole):,.0f}",
        )
    return table
