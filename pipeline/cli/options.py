"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

ConfigOption: TypeAlias = Annotated[
    Path, typer.Option("--config", "-c", help="The configuration; configs/ has ones to start from.", show_default=True)
]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the configuration, such as trainer.epochs=3. Can be repeated."),
]
BeamOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--beam",
        metavar="NAME|FILE",
        help="The engine of the Beam steps: beam/NAME.yaml beside the configuration, or a file. See docs/scaling.md.",
    ),
]
PatternOption: TypeAlias = Annotated[
    str,
    typer.Option(help="For a folder: the file name, with {label} in the label's place and * for any text, such as '{label}_*'."),
]
