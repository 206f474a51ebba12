"""`captcha-pipeline export`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from pipeline.cli.options import ConfigOption, SetOption
from pipeline.cli.terminal import console, stoppable
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow


@stoppable("No export was written.")
def export(
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    form: Annotated[str, typer.Option("--format", help="Format of the export, such as onnx.")] = "onnx",
    int8: Annotated[
        bool, typer.Option("--int8", help="Use weights and activations of 8 bits: a smaller file, nearly as accurate.")
    ] = False,
    model: Annotated[Path | None, typer.Option(help="Version folder of a model (default: the newest pushed version).")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder (default: ROOT/NAME/exports/VERSION/FORMAT, where predict finds it).")
    ] = None,
) -> None:
    """Export a pushed model for programs without TensorFlow.

    Reads the test split with the export and with the model. The export is written only if it reads like the model.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.exporting.export import export as export_version
    from pipeline.inference.versions import newest_model

    done = export_version(settings, model or newest_model(settings), form, int8, out)
    proof = done.proof
    console.print(
        f"{proof.same_texts:,} of {proof.pictures:,} test pictures are read like the model reads them; probabilities differ by at most "
        f"{proof.largest_difference:.1e}; {proof.accuracy:.2%} right, the model {proof.saved_model_accuracy:.2%}.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Exported to {done.folder}", highlight=False, soft_wrap=True)


COMMANDS: Final = (export,)
