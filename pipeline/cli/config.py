"""`captcha-pipeline config`: prints the configuration, or suggests one for labelled pictures."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from components.base.errors import CaptchaPipelineError
from pipeline.cli.options import DEFAULT_PATTERN, ConfigOption, PatternOption, SetOption
from pipeline.config import DEFAULT_CONFIG

_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")

config_app = typer.Typer(invoke_without_command=True)


@config_app.callback()
def show(context: typer.Context, config: ConfigOption = DEFAULT_CONFIG, overrides: SetOption = None) -> None:
    """Print the effective configuration as YAML, with every default."""
    if context.invoked_subcommand:
        return
    from pipeline.config.loading import load_config

    typer.echo(load_config(config, overrides).as_yaml(), nl=False)


@config_app.command("suggest")
def suggest_config(
    path: Annotated[Path, typer.Argument(help="Folder of labelled pictures, or a .csv or .jsonl table.", show_default=False)],
    pattern: PatternOption = DEFAULT_PATTERN,
) -> None:
    """Suggest a configuration for labelled pictures, with reasons.

    Charset and length come from the labels, size and channels from the
    pictures. The YAML goes to standard output, with the import command in its
    first line. Redirect it to a file, check it, then import the pictures.

    Example: captcha-pipeline config suggest ~/shop --pattern '{label}_*' > shop.yaml
    """
    from components.data.sources.listing import TABLES, folder_entries, table_entries
    from components.data.sources.suggestion import suggest
    from pipeline.config.config import DataConfig

    is_table = path.suffix.lower() in TABLES
    if not path.exists():
        raise CaptchaPipelineError(f"{path} does not exist. Give a folder of labelled pictures, or a .csv or .jsonl table.")
    found = table_entries(path, outside=False) if is_table else folder_entries(path, pattern, lambda why, name: None)
    entries = [entry for entry in found if entry.path.suffix.lower() in _PICTURES]
    name = re.sub(r"[^a-z0-9]+", "-", (path.resolve().parent if is_table else path.resolve()).name.lower()).strip("-") or "captchas"
    words = ["captcha-pipeline", "data", "import", str(path), *([] if is_table else ["--pattern", pattern]), "--config", f"{name}.yaml"]
    lines = [f"# For {len(entries):,} labelled pictures. Import them with: {shlex.join(words)}", *_yaml("name", name), "captcha:"]
    for suggestion in suggest(entries, DataConfig().picture_rules):
        lines += [f"  # {suggestion.reason}", *(f"  {line}" for key, value in suggestion.values.items() for line in _yaml(key, value))]
    typer.echo("\n".join([*lines, "data:", *(f"  {line}" for line in _yaml("root", f"data/{name}"))]))


def _yaml(key: str, value: Any) -> list[str]:
    return yaml.safe_dump({key: value}, allow_unicode=True, sort_keys=False).splitlines()
