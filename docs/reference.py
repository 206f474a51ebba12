"""Writes the reference pages of the documentation from the code: every key of the configuration, every command.

uv run python docs/reference.py
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config.config import Config

_FOLDER = Path(__file__).parent / "reference"


def configuration() -> str:
    """Returns the page of all keys, a table for each section."""
    lines = [
        "# Configuration",
        "",
        "A configuration is a YAML file with these sections. `--set section.key=value` changes a key for one command;",
        "`captcha-pipeline config` prints the effective configuration.",
    ]
    for title, model in _sections("", Config):
        lines += ["", f"## {title or 'At the top'}", ""]
        if title and model.__doc__:
            lines += [model.__doc__.split("\n\n")[0].replace("\n", " "), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(name, field) for name, field in model.model_fields.items() if not _is_section(field.annotation)]
    return "\n".join(lines) + "\n"


def _sections(title: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield title, model
    for name, field in model.model_fields.items():
        for nested in _models(field.annotation):
            yield from _sections(f"{title}.{name}" if title else name, nested)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in a type, such as the one in `Section | None`."""
    if _is_section(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _row(name: str, field: FieldInfo) -> str:
    if field.is_required():
        default = "required"
    else:
        value = yaml.safe_dump(_plain(field.get_default(call_default_factory=True)), default_flow_style=True)
        default = f"`{value.removesuffix('...' + chr(10)).strip()}`"
    cells = (f"`{name}`", _kind(field.annotation), default, field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(annotation: Any) -> str:
    """A type as the page names it: `int`, one of several values, a list, or a section."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {_kind(parts[0])}" if parts[-1] is Ellipsis else f"{len(parts)} of {_kind(parts[0])}"
    if origin is dict:
        return f"mapping of {_kind(parts[0])} to {_kind(parts[1])}"
    if parts:
        return " or ".join(_kind(part) for part in parts)
    return "section" if _is_section(annotation) else annotation.__name__


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def commands() -> str:
    """Returns the page of all commands, which Typer writes."""
    program = [sys.executable, "-m", "typer", "pipeline.cli.main", "utils", "docs", "--name", "captcha-pipeline"]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    _FOLDER.mkdir(exist_ok=True)
    for name, page in (("configuration", configuration()), ("commands", commands())):
        (_FOLDER / f"{name}.md").write_text(page, encoding="utf-8")
