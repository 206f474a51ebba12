"""`captcha-pipeline label`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from pipeline.cli.data_output import describe, progress_bar, tell_corrections
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.serving import check_packages
from pipeline.cli.terminal import console, stoppable
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow

if TYPE_CHECKING:
    from pipeline.labelling.run import Ended


@stoppable("Every label is on the disk. Run the same command again to continue.")
def label(
    folder: Annotated[Path, typer.Argument(help="Folder of pictures, with or without subfolders.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port of the page on this machine; 0 for any free port.")] = 8502,
    goal: Annotated[float, typer.Option(min=0, max=1, help="Share of the texts that the model should read right, from 0 to 1.")] = 0.98,
    retrain_every: Annotated[int, typer.Option(min=1, help="Train a new model after this many new labels.")] = 50,
) -> None:
    """Label the pictures of a folder on a page in the browser, in the order that helps the model most.

    Models are trained in the background, and fill in what they read. Every
    keystroke is saved to the disk at once: you can stop or kill the command at any
    time, and run it again to continue. When it ends, it writes the labels to a
    span, as `data import` does. Only this machine can open the page. The models
    serve only the labelling; `run` trains the model for production.

    Example: captcha-pipeline label ~/shop --config shop.yaml
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    check_packages("label")
    load_tensorflow(with_keras=False)
    from pipeline.labelling import run as labelling
    from pipeline.labelling.app import Goal
    from pipeline.labelling.opening import opened as labelling_of

    socket = labelling.listener(port)
    with contextlib.ExitStack() as opened:
        with progress_bar("Looking at the pictures", None) as (bar, task):
            session = opened.enter_context(
                labelling_of(settings, folder, lambda what, done, total: bar.update(task, description=what, completed=done, total=total))
            )
        catalogue = session.catalogue
        _say(f"{len(catalogue):,} pictures in {folder}" + (f", and {catalogue.copies:,} copies of them" if catalogue.copies else ""))
        if left_out := catalogue.left_out.describe():
            typer.echo(left_out, err=True)
        host, chosen = socket.getsockname()[:2]
        _say(f"Label them at http://{host}:{chosen}/ and press Ctrl-C here when you are done.")
        _tell(labelling.run(settings, session, Goal(goal, retrain_every), socket))


def _tell(ended: "Ended") -> None:
    counts = ", ".join(f"{count:,} {what}" for what, count in ended.counts.items())
    _say(f"Ended. {counts}.")
    for imported in ended.imports:
        if imported.counts:
            _say(f"{describe(imported.span)}, source {imported.span.manifest.source}.")
        if left_out := imported.describe():
            typer.echo(left_out, err=True)
    if ended.corrected:
        tell_corrections(ended.corrected)
    if ended.problem:
        typer.echo(ended.problem, err=True)
    if ended.counts["labelled"]:
        _say("Train the model for production: captcha-pipeline run, with the same configuration.")


def _say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


COMMANDS: Final = (label,)
