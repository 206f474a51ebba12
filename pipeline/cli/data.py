"""`captcha-pipeline data`: draws, imports, drops and shows labelled pictures."""

import os
import shlex
import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.base.errors import CaptchaPipelineError
from pipeline.cli.data_output import complain, describe, importing, progress_bar, statistics_table, tell
from pipeline.cli.options import DEFAULT_PATTERN, BeamOption, ConfigOption, PatternOption, SetOption
from pipeline.config import DEFAULT_CONFIG

if TYPE_CHECKING:
    from components.data.drawing.painting import SynthPlan
    from components.data.spans import Span
    from pipeline.config.config import Config


data_app = typer.Typer(
    no_args_is_help=True,
    help="Draw, import and show labelled pictures. They are stored in spans: numbered folders that never change once made.",
)


class LayoutName(str, Enum):
    """How a span stores records.

    canonical: encoded pictures and text labels. book: the legacy layout, raw pixels and class ids, described by data_info.csv.
    """

    canonical = "canonical"
    book = "book"


LayoutOption = Annotated[
    LayoutName,
    typer.Option(help="Record layout of the span. canonical: encoded pictures and text; book: legacy layout, raw pixels and class ids."),
]


@data_app.command()
def synth(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    beam: BeamOption = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of pictures to draw (default: synth.count).", show_default=False)] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, show_default=False, help="Random seed (default: synth.seed plus the number of the last span, so that each span is new)."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of drawing processes on this machine (default: one per core).", show_default=False)
    ] = None,
    layout: LayoutOption = LayoutName.canonical,
) -> None:
    """Draw captchas into a new span.

    The section `synth` of the configuration says how they look. The same seed
    gives the same pictures, for any number of workers and on any engine. By
    default each new span uses the next seed, and so has new pictures.

    Example: captcha-pipeline data synth --count 2000 --set synth.noise_dots=60
    """
    from components.data.drawing.painting import SynthPlan
    from components.data.drawing.synthetic import in_processes, synthesise
    from components.data.spans import list_spans, next_number
    from pipeline.config.engines import LOCAL

    settings = _load(config, overrides, beam)
    drawn = settings.synth.model_copy(
        update={
            "count": count or settings.synth.count,
            "seed": settings.synth.seed + next_number(settings.data.root) - 1 if seed is None else seed,
        }
    )
    plan = SynthPlan(settings.captcha, drawn, settings.data.splits.model_dump(), layout.value)
    beside_others = any(span.is_imported for span in list_spans(settings.data.root))
    started = time.monotonic()
    if settings.beam.of("synth").runner == LOCAL:
        with progress_bar("Drawing", drawn.count) as (bar, task):
            here = partial(in_processes, workers=workers or os.cpu_count() or 1, on_pictures=lambda further: bar.advance(task, further))
            span = synthesise(plan, settings.data.root, here)
    else:
        span = _synthesise_elsewhere(settings, plan)
    typer.echo(f"{describe(span)}, seed {drawn.seed}, in {time.monotonic() - started:.0f} s.")
    if beside_others:
        typer.echo("These pictures only train models. The pictures that people have labelled judge them.")


def _synthesise_elsewhere(settings: "Config", plan: "SynthPlan") -> "Span":
    from components.data.drawing.synthetic import synthesise
    from components.data.drawing.synthetic_beam import make_shards
    from pipeline.runners.beam.engine_check import check_engines

    engine = settings.beam.of("synth")
    Path(settings.data.root).mkdir(parents=True, exist_ok=True)
    check_engines([engine], [settings.data.root], Path(settings.engine_log))
    return synthesise(plan, settings.data.root, partial(make_shards, beam_args=engine.beam_args(f"{settings.name}-synth")))


@data_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="Folder of pictures, .csv or .jsonl table, or folder or file in the legacy layout.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    pattern: PatternOption = DEFAULT_PATTERN,
    layout: LayoutOption = LayoutName.canonical,
    source: Annotated[
        str, typer.Option(help="Name of the source; accuracy is also reported by source (default: the name of PATH).", show_default=False)
    ] = "",
    outside: Annotated[bool, typer.Option("--outside", help="For a table: also import pictures outside the table's folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read everything and report what would be imported. Write nothing.")] = False,
) -> None:
    """Import labelled pictures into a new span.

    PATH is one of:

    - a folder of pictures with labels in their file names. --pattern says where
    in the name; a pattern with a / is matched against the path below the
    folder, such as '{label}/*'

    - a .csv or .jsonl table with the columns path and label; paths are relative
    to the table's folder

    - a folder in the legacy layout (TFRecord files with data_info.csv), or one
    of these files

    Files that cannot be imported are left out and listed. A picture that already
    has another label, in this import or in a span, is left out as well; the
    exit code is then 3.

    Example: captcha-pipeline data import ~/shop --pattern '{label}_*.png'
    """
    from components.data.sources.formats import Options, import_path
    from components.data.sources.imported import source_name
    from pipeline.config.imports import import_plan

    settings = _load(config, overrides)
    if not path.exists():
        raise CaptchaPipelineError(f"{path} does not exist. Give a folder of pictures, a .csv or .jsonl table, or a TFRecord file.")
    plan = import_plan(settings, source_name(source, path), layout.value, dry_run=dry_run)
    with importing() as progress:
        imported = import_path(path, Options(pattern, outside), plan, progress)
    tell(imported, plan)


@data_app.command()
def ingest(
    inbox: Annotated[Path, typer.Argument(help="Folder of labelled pictures to which new pictures are added.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    pattern: PatternOption = DEFAULT_PATTERN,
    source: Annotated[
        str, typer.Option(help="Name of the source; accuracy is also reported by source (default: the name of INBOX).", show_default=False)
    ] = "",
) -> None:
    """Import the new pictures of a folder into a new span. Made for cron, before `retrain`.

    A picture is new if no span has its visible pixels with its label. So
    pictures can stay in the folder and can be renamed. Without new pictures no
    span is made. A picture that already has another label is left out; the
    exit code is then 3.

    Example: captcha-pipeline data ingest /srv/inbox --pattern '{label}_*.png'
    """
    from components.data.sources.imported import import_folder, source_name
    from components.data.sources.outcome import NothingNew
    from pipeline.config.imports import import_plan

    settings = _load(config, overrides)
    plan = import_plan(settings, source_name(source, inbox), "canonical", only_new=True)
    try:
        with importing() as progress:
            imported = import_folder(inbox, pattern, plan, progress)
    except NothingNew as nothing:
        typer.echo(f"Nothing new in {inbox}. {nothing}")
        complain(nothing.result)
        return
    tell(imported, plan)


@data_app.command()
def drop(
    span: Annotated[int, typer.Argument(min=1, help="Number of the span.", show_default=False)],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> None:
    """Move a span out of the data folder, so that no run reads it. Nothing is deleted.

    To restore the span, move its folder back. Its number is not used again.

    Example: captcha-pipeline data drop 3
    """
    from components.data.span_writer import drop_span

    data = _load(config, overrides).data
    if span == data.golden:
        raise CaptchaPipelineError(
            f"Span {span} cannot be dropped: it is the golden span (data.golden), which judges every model. "
            "Set data.golden to another span first."
        )
    aside = drop_span(Path(data.root), span)
    typer.echo(f"Moved span {span} to {aside}. To restore it: mv {shlex.quote(str(aside))} {shlex.quote(data.root)}")
    if span in data.exclude:
        typer.echo(f"You can remove {span} from data.exclude.")


@data_app.command()
def show(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    out: Annotated[Path, typer.Option(help="File for the contact sheet, a PNG.")] = Path("sheet.png"),
    span: Annotated[
        int | None, typer.Option(min=1, help="Number of the span to show (default: all spans in the window).", show_default=False)
    ] = None,
    per_split: Annotated[int, typer.Option(min=1, max=1000, help="Number of pictures of each split on the contact sheet.")] = 32,
) -> None:
    """Show the spans: print a table, and write a PNG with labelled pictures.

    Example: captcha-pipeline data show --span 1 --out sheet.png
    """
    from rich.console import Console

    from components.data.sources.sheet import contact_sheet, span_statistics
    from components.data.spans import list_spans

    settings = _load(config, overrides)
    shown = settings.data.read_window()
    if span is not None:
        one = [found for found in list_spans(settings.data.root) if found.number == span]
        if not one:
            numbers = ", ".join(str(found.number) for found in list_spans(settings.data.root))
            raise CaptchaPipelineError(f"Span {span} does not exist in {settings.data.root}. Choose one of: {numbers}.")
        shown = shown.only(one[0])
    for found in shown.spans:
        typer.echo(describe(found, "has") + f", source {found.manifest.source}, layout {found.manifest.layout}.")
    rules = settings.data.picture_rules
    statistics = span_statistics(shown, settings.captcha, rules)
    Console().print(statistics_table(statistics))
    try:
        contact_sheet(shown, statistics, out, per_split, settings.captcha, rules)
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot write {out}: {error.strerror}. Choose another file with --out.") from None
    typer.echo(f"Contact sheet: {out}")


def _load(path: Path, overrides: list[str] | None, beam: str | None = None) -> "Config":
    from pipeline.config.loading import load_config

    return load_config(path, overrides, beam=beam)
