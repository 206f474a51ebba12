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
    form: Annotated[str, typer.Option("--format", help="onnx, litert, openvino or html.")] = "onnx",
    int8: Annotated[bool, typer.Option("--int8", help="Use weights and activations of 8 bits (onnx and litert): a smaller file.")] = False,
    model: Annotated[Path | None, typer.Option(help="Version folder of a model (default: the newest pushed version).")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New or empty folder (default: ROOT/NAME/exports/VERSION/FORMAT; predict uses onnx)."),
    ] = None,
) -> None:
    """Export a pushed model for programs without TensorFlow.

    First compares the export with the model on the test split. A float32 export must give the same texts; an 8-bit export may lose at most
    0.1 percentage points of accuracy. Otherwise nothing is written.
    """
    from pipeline.config.loading import load_config

    settings = load_config(config, overrides)
    load_tensorflow()
    from pipeline.exporting.export import export as export_version
    from pipeline.inference.versions import newest_model

    done = export_version(settings, model or newest_model(settings), form, int8, out)
    proof = done.proof
    console.print(
        f"The export and the model give the same text for {proof.same_texts:,} of {proof.pictures:,} test pictures. Largest difference of "
        f"a probability: {proof.largest_difference:.1e}. Accuracy: export {proof.accuracy:.2%}, model {proof.saved_model_accuracy:.2%}.",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Exported to {done.folder}", highlight=False, soft_wrap=True)


COMMANDS: Final = (export,)
