"""The command line. Commands import heavy modules themselves, so that `--help` is fast.

Exit codes:

- 0: done. After `run`, its model is in production.
- 1: failed. The message says why.
- 2: wrong usage.
- 3: the run is complete, but its model was not blessed or is withdrawn, so nothing was pushed; or the import is complete, but pictures with
  two labels were left out.
- 130: stopped by Ctrl-C or SIGTERM.
"""

import importlib.metadata
import io
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from pipeline.cli import data_labels, exporting, history, labelling, reading, running, serving
from pipeline.cli.config import config_app
from pipeline.cli.data import data_app
from pipeline.cli.kubeflow import kubeflow_app
from pipeline.cli.synth import synth_app
from pipeline.cli.terminal import console
from pipeline.logs import silence

app = typer.Typer(
    rich_markup_mode="markdown",
    name="captcha-pipeline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no model pushed or pictures with two labels left out, 130 stopped.",
)
app.add_typer(config_app, name="config")
app.add_typer(data_app, name="data")
app.add_typer(kubeflow_app, name="kubeflow")
app.add_typer(synth_app, name="synth")
for command in data_labels.COMMANDS:
    data_app.command()(command)
for group in (labelling, running, reading, exporting, serving, history):
    for command in group.COMMANDS:
        app.command(command.__name__.replace("_", "-"))(command)


def main() -> None:
    """The console script. Prints errors that the user can fix as one message, without a traceback."""
    silence()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a character that the terminal cannot show must not end the command
    try:
        with writing_in():
            app()
    except CaptchaPipelineError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _captcha_pipeline(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Train a model that reads short text images, from labelled pictures to a served model.

    Start with `captcha-pipeline data synth`, then `captcha-pipeline run`.
    """
    if version:
        console.print(f"captcha-pipeline {importlib.metadata.version('captcha-pipeline')}", highlight=False)
        raise typer.Exit
