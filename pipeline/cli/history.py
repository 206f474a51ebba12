"""`captcha-pipeline runs`, `rollback`, `report`, `trend` and `gc`."""

from typing import Annotated, Final

import typer

from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.terminal import console, warn_of_unservable_models
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow


def runs(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    version: Annotated[str | None, typer.Option(help="Show the lineage of this pushed version: its spans, base model and steps.")] = None,
) -> None:
    """List all runs: trigger, spans, drift, accuracy and that of the production model, decision. --version shows one version's lineage."""
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
        warn_of_unservable_models(settings)


def rollback(
    version: Annotated[int, typer.Argument(help="Version to put back into production; `runs` lists them.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
) -> None:
    """Put an earlier version back into production.

    A copy of it becomes the newest version in the serving folder. Models pushed after it are withdrawn: runs do not push them again.
    """
    from components.serving.serving_dir import roll_back
    from pipeline.config.loading import load_config

    pushed = roll_back(load_config(config, overrides).serving_dir, version)
    console.print(f"Version {version} is in production again, as {pushed.version} in {pushed.path.parent}", highlight=False, soft_wrap=True)


def report(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Write the HTML report of the latest complete run again, and print its path."""
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.reporting import results
    from pipeline.runs import history

    result = results.result_of(settings, history.latest_complete_run(settings.metadata_path))
    results.write_report(settings, result)
    console.print(f"Report: {result.report}", highlight=False, soft_wrap=True)


def trend(config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Write the HTML page about all runs again, and print its path. Every run also writes it at its end."""
    from pipeline.config.loading import load_config
    from pipeline.reporting.trend import write_trend_page

    page = write_trend_page(load_config(config, overrides))
    console.print(f"Trend: {page}", highlight=False, soft_wrap=True)


def gc(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the output that would be removed and its size. Remove nothing.")] = False,
) -> None:
    """Remove output of old runs: artifacts, logs, searches, checkpoints and reports that no kept run needs.

    The newest `gc.keep_runs` runs are kept, and all runs whose version is in the serving folder. The history stays complete.

    Example: captcha-pipeline gc --dry-run --set gc.keep_runs=2
    """
    from pipeline.config.loading import load_config
    from pipeline.garbage import collect
    from pipeline.reporting import tables

    tables.print_garbage(console, collect(load_config(config, overrides), dry_run=dry_run), dry_run=dry_run)


COMMANDS: Final = (runs, rollback, report, trend, gc)
