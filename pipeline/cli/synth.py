"""`captcha-pipeline synth`: finds out how to draw synthetic pictures that look like real ones."""

from pathlib import Path
from typing import Annotated

import typer

from components.base.errors import CaptchaPipelineError
from pipeline.cli.data_output import progress_bar
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.config import DEFAULT_CONFIG

synth_app = typer.Typer(no_args_is_help=True, help="Find out how to draw pictures that look like real ones. `data synth` draws them.")


@synth_app.callback()
def _synth() -> None:
    """Makes `synth fit` a subcommand. Without a callback, Typer turns a group with one command into that command."""


@synth_app.command()
def fit(
    folder: Annotated[Path, typer.Argument(help="Folder of 50 or more real pictures, labelled or not.", show_default=False)],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    page: Annotated[Path, typer.Option(help="File to write: a page with real and drawn pictures side by side.")] = Path("style.html"),
) -> None:
    """Find the style of real pictures, for `data synth`.

    The command chooses fonts, sizes, spacing, colours, lines and so on, such that
    a classifier can hardly tell drawn pictures from real ones. It needs no labels,
    only the charset and the length in the section captcha. It tries the fonts in
    synth.fonts, or else the fonts that are installed on this machine. If a font
    traced from the pictures fits better, it is written next to the page.

    The section synth is printed to standard output, with reasons. Append it to the
    configuration, look at the page, then draw pictures with `data synth`.

    Example: captcha-pipeline synth fit ~/shop --config shop.yaml > synth.yaml
    """
    from components.data.drawing.painting import usable_fonts
    from components.data.style_fit.real_pictures import read_sample
    from components.data.style_fit.style_search import fit_style
    from components.data.style_fit.style_section import section_of
    from pipeline.config.loading import load_config
    from pipeline.reporting.style_page import write_style_page

    settings = load_config(config, overrides)
    if not folder.is_dir():
        raise CaptchaPipelineError(f"The folder {folder} does not exist. Give a folder of pictures.")
    with progress_bar("Reading pictures", None) as (bar, task):

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        real = read_sample(folder, settings.data.picture_rules, lambda done, total: show("Reading pictures", done, total))
        fonts = usable_fonts(settings.synth.fonts, settings.captcha.characters)
        fitted = fit_style(real, fonts, settings.captcha, page.with_suffix(".ttf"), show)
    section = section_of(fitted, real, str(folder))
    write_style_page(folder.resolve().name, fitted, real, section, page)
    typer.echo(section, nl=False)
    typer.echo(f"Real and drawn pictures side by side: {page}", err=True)
