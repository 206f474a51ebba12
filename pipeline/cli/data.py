"""`captcha-pipeline data`: makes, imports and shows data."""

import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.base.errors import CaptchaPipelineError
from components.base.features import SPLITS
from pipeline.cli.options import BeamOption, ConfigOption, PatternOption, SetOption
from pipeline.config import DEFAULT_CONFIG

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from components.data.sources.index import Progress
    from components.data.sources.painting import SynthPlan
    from components.data.sources.sheet import SplitStatistics
    from components.data.sources.sift import Imported, ImportPlan
    from components.data.spans import Layout, Span
    from pipeline.config.config import Config

CONTRADICTED = 3  # complete, but pictures with two labels were left out

data_app = typer.Typer(
    no_args_is_help=True,
    help="Make, import and look at labelled pictures. They lie in spans: a span is made in one step and never changed.",
)


class LayoutName(str, Enum):
    """canonical: encoded pictures and text labels; book: raw pixels and class ids, described by data_info.csv."""

    canonical = "canonical"
    book = "book"


LayoutOption = Annotated[LayoutName, typer.Option(help="canonical: encoded pictures and text; book: raw pixels and class ids.")]


@data_app.command()
def synth(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="Pictures to make (default: synth.count)", show_default=False)] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, show_default=False, help="The same seed gives the same pictures (default: synth.seed + spans there already)"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core)", show_default=False)] = None,
    layout: LayoutOption = LayoutName.canonical,
) -> None:
    """Draw captchas into a new span.

    The same seed gives the same pictures, whatever the number of workers and the engine.
    Each further span takes the next seed, so that it brings new pictures.

    Example: captcha-pipeline data synth --count 2000 --set synth.noise_dots=60
    """
    from components.data.sources.painting import SynthPlan
    from components.data.sources.synthetic import in_processes, synthesise
    from components.data.spans import next_number
    from pipeline.config.engines import LOCAL

    settings = _load(config, overrides, beam)
    drawn = settings.synth.model_copy(
        update={
            "count": count or settings.synth.count,
            "seed": settings.synth.seed + next_number(settings.data.root) - 1 if seed is None else seed,
        }
    )
    plan = SynthPlan(settings.captcha, drawn, settings.data.splits.model_dump(), layout.value)
    started = time.monotonic()
    if settings.beam.of("synth").runner == LOCAL:
        with _progress("Drawing", drawn.count) as (bar, task):
            here = partial(in_processes, workers=workers or os.cpu_count() or 1, on_pictures=lambda further: bar.advance(task, further))
            span = synthesise(plan, settings.data.root, here)
    else:
        span = _synthesise_elsewhere(settings, plan)
    typer.echo(f"{_describe(span)}, seed {drawn.seed}, in {time.monotonic() - started:.0f} s.")


def _synthesise_elsewhere(settings: "Config", plan: "SynthPlan") -> "Span":
    from components.data.sources.synthetic import synthesise
    from components.data.sources.synthetic_beam import make_shards
    from pipeline.runners.beam.engine_check import check_engines

    engine = settings.beam.of("synth")
    Path(settings.data.root).mkdir(parents=True, exist_ok=True)
    check_engines([engine], [settings.data.root], Path(settings.engine_log))
    return synthesise(plan, settings.data.root, partial(make_shards, beam_args=engine.beam_args(f"{settings.name}-synth")))


@data_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder of pictures; a .csv or .jsonl table; or a folder or file in the legacy layout.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    pattern: PatternOption = "{label}.*",
    layout: LayoutOption = LayoutName.canonical,
    source: Annotated[str, typer.Option(help="The set's name, by which results are sliced (default: PATH's)", show_default=False)] = "",
    outside: Annotated[bool, typer.Option("--outside", help="For a table: take pictures outside its folder as well.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read everything, say what would be imported, and write nothing.")] = False,
) -> None:
    """Import labelled pictures into a new span.

    PATH is one of:

    - a folder of pictures with the labels in their names. --pattern says where;
    with a / in it, it is compared with the path below the folder: '{label}/*'

    - a .csv or .jsonl file with path and label, the paths relative to the file

    - a folder with TFRecord files and data_info.csv, as the book's writer makes
    them, or one of these files

    What cannot be imported is left out and listed. So is a picture that is
    there with another label, in this import or in a span; the command then
    ends with 3.

    Example: captcha-pipeline data import ~/captchas --pattern '{label}_*.png' --source shop
    """
    from components.data.sources.imported import import_folder, import_legacy, import_table
    from components.data.sources.listing import TABLES
    from components.data.sources.sift import Imported

    settings = _load(config, overrides)
    if not path.exists():
        raise CaptchaPipelineError(f"There is no {path}.")
    plan = _import_plan(settings, source or path.resolve().stem, layout.value, dry_run=dry_run)
    with _importing() as progress:
        imported: Imported
        if path.is_dir() and not (path / "data_info.csv").exists():
            imported = import_folder(path, pattern, plan, progress)
        elif path.suffix.lower() in TABLES and path.name != "data_info.csv":
            imported = import_table(path, plan, progress, outside)
        else:
            imported = import_legacy(path.parent if path.name == "data_info.csv" else path, plan, progress)
    _tell(imported, plan)


@data_app.command()
def ingest(
    inbox: Annotated[Path, typer.Argument(help="A folder of pictures, into which new ones are dropped.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    pattern: PatternOption = "{label}.*",
    source: Annotated[str, typer.Option(help="The set's name, by which results are sliced (default: INBOX's)", show_default=False)] = "",
) -> None:
    """Import what is new in a folder into a new span. For cron, before `retrain`.

    New is what no span has, by label and visible pixels: pictures may stay in
    the folder, and have any name. If there is nothing new, no span is made. A
    picture that is there with another label is left out; the command then
    ends with 3.

    Example: captcha-pipeline data ingest /srv/captchas --pattern '{label}_*.png'
    """
    from components.data.sources.imported import import_folder
    from components.data.sources.sift import NothingNew

    settings = _load(config, overrides)
    plan = _import_plan(settings, source or inbox.resolve().stem, "canonical", only_new=True)
    try:
        with _importing() as progress:
            imported = import_folder(inbox, pattern, plan, progress)
    except NothingNew as nothing:
        typer.echo(f"Nothing new in {inbox}: {nothing}")
        _complain(nothing.result)
        return
    _tell(imported, plan)


@data_app.command()
def drop(
    span: Annotated[int, typer.Argument(min=1, help="Its number.", show_default=False)],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> None:
    """Move a span aside, so that no run reads it. Nothing is deleted.

    To bring it back, move its folder back. No other span gets its number.

    Example: captcha-pipeline data drop 3
    """
    from components.data.span_writer import drop_span

    data = _load(config, overrides).data
    if span == data.golden:
        raise CaptchaPipelineError(f"Span {span} is the golden one, which judges every model (data.golden). Name another one there first.")
    aside = drop_span(Path(data.root), span)
    typer.echo(f"Span {span} now lies in {aside}. To bring it back: mv {shlex.quote(str(aside))} {shlex.quote(data.root)}")
    if span in data.exclude:
        typer.echo(f"data.exclude need not name {span} any more.")


@data_app.command()
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="Where to write the contact sheet, a PNG.")] = Path("sheet.png"),
    span: Annotated[int | None, typer.Option(min=1, help="Its number (default: the spans that a run reads)", show_default=False)] = None,
    per_split: Annotated[int, typer.Option(min=1, max=1000, help="Pictures of each split on the sheet.")] = 32,
) -> None:
    """Show what lies in the spans: a table, and a PNG of labelled pictures.

    Example: captcha-pipeline data show --span 1 --out sheet.png
    """
    from rich.console import Console

    from components.data.sources.sheet import contact_sheet, span_statistics
    from components.data.spans import list_spans

    settings = _load(config, overrides)
    spans = list(settings.data.read_window().spans)
    if span is not None:
        spans = [found for found in list_spans(settings.data.root) if found.number == span]
        if not spans:
            numbers = ", ".join(str(found.number) for found in list_spans(settings.data.root))
            raise CaptchaPipelineError(f"There is no span {span} in {settings.data.root}; there are {numbers}.")
    for found in spans:
        typer.echo(_describe(found, "has") + f", source {found.manifest.source}, layout {found.manifest.layout}.")
    Console().print(_table(span_statistics(spans, settings.captcha)))
    try:
        contact_sheet(spans, out, per_split, settings.captcha)
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot write {out}: {error.strerror}. Choose another place with --out.") from None
    typer.echo(f"Pictures: {out}")


def _load(path: Path, overrides: list[str] | None, beam: str | None = None) -> "Config":
    from pipeline.config.loading import load_config

    return load_config(path, overrides, beam=beam)


def _import_plan(settings: "Config", source: str, layout: "Layout", *, only_new: bool = False, dry_run: bool = False) -> "ImportPlan":
    from components.data.sources.sift import ImportPlan

    return ImportPlan(
        root=Path(settings.data.root),
        spec=settings.captcha,
        splits=settings.data.splits.model_dump(),
        source=source,
        rules=settings.data.picture_rules,
        layout=layout,
        shard_size=settings.synth.shard_size,
        only_new=only_new,
        dry_run=dry_run,
    )


def _tell(imported: "Imported", plan: "ImportPlan") -> None:
    """Says what came of an import. Ends the command with CONTRADICTED where pictures are there with two labels."""
    if plan.dry_run:
        typer.echo(f"Would be imported: {_counts(imported.counts)}, source {plan.source}. Nothing was written.")
    else:
        typer.echo(f"{_describe(imported.span)}, source {plan.source}.")
    if imported.known:
        left_out = "and are left out" if plan.only_new else "with the same label; they are imported again"
        typer.echo(f"{imported.known:,} are in a span already, {left_out}.")
    if imported.alike:
        typer.echo(f"{imported.alike:,} look like one that is there: encoded again or resized. Each is in the split of that one.")
    if plan.dry_run or set(imported.sizes) - {(plan.spec.width, plan.spec.height)}:
        sizes = ", ".join(f"{width}x{height} {count:,}" for (width, height), count in imported.sizes.most_common(5))
        typer.echo(f"Sizes: {sizes}{' …' if len(imported.sizes) > 5 else ''}; the configuration has {plan.spec.width}x{plan.spec.height}.")
    _complain(imported)


def _complain(imported: "Imported") -> None:
    if imported.doubtful.count:
        typer.echo(f"{imported.doubtful.count:,} look like one with another label: {imported.doubtful}", err=True)
    for reason, found in imported.refused_pictures.items():
        typer.echo(f"{found.count:,} pictures are imported that a run will set aside: {reason}: {found}", err=True)
    if imported.refused_labels:
        shown = "\n  ".join(imported.refused_labels[:5])
        typer.echo(
            f"{len(imported.refused_labels):,} labels are not as the configuration says; a run will set them aside:\n  {shown}", err=True
        )
    if description := imported.describe():
        typer.echo(description, err=True)
    if imported.contradictions:
        raise typer.Exit(CONTRADICTED)


@contextmanager
def _importing() -> Iterator["Progress"]:
    with _progress("Importing", None) as (bar, task):
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)


def _describe(span: "Span", verb: str = "now has") -> str:
    return f"{span.path} {verb} {_counts(span.manifest.counts)}"


def _counts(counts: Mapping[str, int]) -> str:
    parts = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS)
    return f"{sum(counts.values()):,} pictures ({parts})"


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[tuple["Bar", "TaskID"]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task(what, total=total)


def _table(statistics: "list[SplitStatistics]") -> object:
    from rich.table import Table

    table = Table("split", "pictures", "broken", "label length", "share a character", "size", "bytes each")
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
