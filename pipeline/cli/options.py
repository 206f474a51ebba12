"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ConfigOption: TypeAlias = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file (YAML). configs/ has examples.", show_default=True)
]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the configuration, such as trainer.epochs=3. Can be repeated."),
]
BeamOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--beam",
        metavar="NAME|FILE",
        help="Engine of the Beam steps: NAME of beam/NAME.yaml beside the configuration, or a YAML file. See docs/how-to/beam-engines.md.",
    ),
]
PatternOption: TypeAlias = Annotated[
    str,
    typer.Option(help="For a folder: pattern of the file names. {label} stands for the label, * for any text, such as '{label}_*'."),
]
DEFAULT_PATTERN = "{label}.*"
