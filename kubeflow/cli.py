"""`captcha-pipeline kubeflow …`. Heavy modules are imported where they are used, so that help comes at once."""

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.errors import CaptchaPipelineError
from components.files import write_whole
from pipeline.options import DEFAULT_CONFIG, ConfigOption, SetOption
from pipeline.quiet import load_tensorflow

kubeflow_app = typer.Typer(no_args_is_help=True, help="Compile for Kubeflow Pipelines, and rehearse what was compiled.")
console = Console()


@kubeflow_app.command("compile")
def compile_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    image: Annotated[str | None, typer.Option(help="This project's image, as the cluster pulls it; kubeflow.image if not given.")] = None,
    root: Annotated[str | None, typer.Option(help="s3://, gs:// or minio:// for artifacts; kubeflow.root if not given.")] = None,
) -> None:
    """Compile the pipeline to what open-source Kubeflow Pipelines v2 runs. Example:

    captcha-pipeline kubeflow compile -o pipeline.yaml --config configs/kubeflow.yaml --image registry/captcha:1 --root s3://bucket/captcha
    """
    from pipeline.config import load_config

    given = [f"kubeflow.{key}={value}" for key, value in (("image", image), ("root", root)) if value]
    settings = load_config(config, [*(overrides or []), *given])
    load_tensorflow()
    from kubeflow.compile import compile_pipeline

    write_whole(output, compile_pipeline(settings))
    console.print(f"Written to {output}", highlight=False, soft_wrap=True)


@kubeflow_app.command()
def rehearse(
    pipeline: Annotated[Path, typer.Argument(help="What `kubeflow compile` wrote.")],
    folder: Annotated[Path, typer.Option(help="Stands for the cluster: storage, caches, unfinished runs.")] = Path("output/rehearsal"),
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Of the run, such as epochs=1. Can be repeated.")
    ] = None,
) -> None:
    """Run a compiled pipeline on this machine as Kubeflow would, each step a process. Exit code 1 if a step failed.

    The mount paths of its volumes must be folders of this machine. After a failure the same command takes up at the failed step.
    """
    parameters = dict(map(_parameter, parameter or []))
    from kubeflow.rehearse import Rehearsal

    rehearsal = Rehearsal(pipeline, folder, parameters)
    table = Table(title=f"rehearsal of {pipeline}", title_justify="left")
    for column in ("step", "state", "seconds"):
        table.add_column(column, justify="right" if column == "seconds" else "left")
    problem = ""
    with console.status("Starting") as status:
        for outcome in rehearsal.run():
            status.update(f"{outcome.name}: {outcome.state}")
            table.add_row(outcome.name, outcome.state, f"{outcome.seconds:.1f}" if outcome.seconds else "")
            problem = problem or outcome.message
    console.print(table)
    if problem:
        raise CaptchaPipelineError(problem)
    console.print(f"Evaluation: {escape(str(rehearsal.artifact('CaptchaEvaluator', 'evaluation')))}", highlight=False, soft_wrap=True)


def _parameter(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CaptchaPipelineError(f"--parameter {text}: write it as NAME=VALUE, such as epochs=1.")
    return name.strip(), yaml.safe_load(value)
