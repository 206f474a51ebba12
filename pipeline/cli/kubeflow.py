"""`captcha-pipeline kubeflow …`. Heavy modules are imported where they are used, so that help comes at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from components.base.errors import CaptchaPipelineError
from components.base.files import write_whole
from pipeline.cli.options import ConfigOption, SetOption
from pipeline.config import DEFAULT_CONFIG
from pipeline.logs import load_tensorflow

if TYPE_CHECKING:
    from pipeline.runners.kubeflow.client import Cluster

kubeflow_app = typer.Typer(no_args_is_help=True, help="Compile for Kubeflow Pipelines, rehearse, submit, schedule.")
schedule_app = typer.Typer(no_args_is_help=True, help="Runs that Kubeflow Pipelines starts by itself, one at a time.")
kubeflow_app.add_typer(schedule_app, name="schedule")
console = Console()

PipelineArgument: TypeAlias = Annotated[Path, typer.Argument(help="What `kubeflow compile` wrote.")]
ParameterOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Of the run, such as epochs=1. Can be repeated.")
]
HostOption: TypeAlias = Annotated[str | None, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Such as http://localhost:8080.")]
NamespaceOption: TypeAlias = Annotated[str | None, typer.Option(help="Yours, where users share the cluster.")]
# What is given on a command line, others on the machine can read: the help names the variable.
TokenOption: TypeAlias = Annotated[str | None, typer.Option(envvar="KFP_TOKEN", help="In KFP_TOKEN; else as the SDK finds one.")]
ExperimentOption: TypeAlias = Annotated[str, typer.Option(help="Kubeflow's group of runs.")]
AccountOption: TypeAlias = Annotated[str | None, typer.Option(help="The service account of the pods.")]
NameArgument: TypeAlias = Annotated[str, typer.Argument(help="Of the schedule.")]


@kubeflow_app.command("compile")
def compile_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="The YAML to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    image: Annotated[str | None, typer.Option(help="This project's image, as the cluster pulls it; kubeflow.image if not given.")] = None,
    root: Annotated[str | None, typer.Option(help="s3://, gs:// or minio:// for artifacts; kubeflow.root if not given.")] = None,
) -> None:
    """Compile the pipeline to what open-source Kubeflow Pipelines v2 runs. Example:

    captcha-pipeline kubeflow compile -o pipeline.yaml --config configs/kubeflow.yaml --image registry/captcha:1 --root s3://bucket/folder
    """
    from pipeline.config.loading import load_config

    given = [f"kubeflow.{key}={value}" for key, value in (("image", image), ("root", root)) if value]
    settings = load_config(config, [*(overrides or []), *given])
    load_tensorflow()
    from pipeline.runners.kubeflow.compile import compile_pipeline

    write_whole(output, compile_pipeline(settings))
    console.print(f"Written to {output}", highlight=False, soft_wrap=True)


@kubeflow_app.command()
def rehearse(
    pipeline: PipelineArgument,
    folder: Annotated[Path, typer.Option(help="Stands for the cluster: storage, caches, unfinished runs.")] = Path("output/rehearsal"),
    parameter: ParameterOption = None,
) -> None:
    """Run a compiled pipeline on this machine as Kubeflow would, each step a process. Exit code 1 if a step failed.

    The mount paths of its volumes must be folders of this machine. After a failure the same command takes up at the failed step.
    """
    parameters = _parameters(parameter)
    from pipeline.runners.kubeflow.rehearse import Rehearsal

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


@kubeflow_app.command()
def submit(
    pipeline: PipelineArgument,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    token: TokenOption = None,
    experiment: ExperimentOption = "captcha-pipeline",
    service_account: AccountOption = None,
    parameter: ParameterOption = None,
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds to follow it for.")] = None,
) -> None:
    """Upload a compiled pipeline and run it. Exit code 1 if the run failed.

    What is there already is used: a second identical command follows the same run. After one that failed it starts another.
    """
    parameters = _parameters(parameter)
    there = _cluster(host, namespace, token)
    version = there.upload(pipeline)
    run_id, is_new = there.start(version, experiment, parameters, service_account)
    console.print(f"{'Started' if is_new else 'There already:'} the run {run_id} of {version.name}", highlight=False, soft_wrap=True)
    if not wait:
        return
    for step, state in there.follow(run_id, timeout):
        console.print(f"{step or 'The run'}: {state}", highlight=False)
    if state not in ("SUCCEEDED", "SKIPPED"):
        raise CaptchaPipelineError(f"The run {run_id} is {state}. Its pods' logs name the step and what was wrong.")


@schedule_app.command("create")
def create_schedule(
    pipeline: PipelineArgument,
    name: Annotated[str, typer.Option(help="Of the schedule.")],
    cron: Annotated[str | None, typer.Option(help="Six fields, seconds first: `0 0 3 * * *` is at three every night.")] = None,
    every: Annotated[int | None, typer.Option(min=60, help="Seconds.")] = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    token: TokenOption = None,
    experiment: ExperimentOption = "captcha-pipeline",
    service_account: AccountOption = None,
    parameter: ParameterOption = None,
) -> None:
    """Have a compiled pipeline run by cron or every so often, one run at a time, none made up for. One that differs is replaced.

    The window of spans moves by itself: each run reads the newest spans that are there when it starts.
    """
    if (cron is None) == (every is None):
        raise typer.BadParameter("give one of --cron and --every")
    if cron is not None and len(cron.split()) != 6:
        raise typer.BadParameter(f"{cron!r} has {len(cron.split())} fields; Kubeflow's cron has six, seconds first, such as '0 0 3 * * *'")
    parameters = _parameters(parameter)
    from pipeline.runners.kubeflow.client import Schedule

    there = _cluster(host, namespace, token)
    changed = there.schedule(there.upload(pipeline), experiment, name, Schedule(cron, every), parameters, service_account)
    console.print(f"{name} is scheduled" if changed else f"{name} is scheduled just so already", highlight=False)


@schedule_app.command("list")
def list_schedules(host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """List the schedules on the cluster."""
    table = Table("schedule", "status", "when")
    for run in _cluster(host, namespace, token).schedules():
        cron, periodic = run.trigger.cron_schedule, run.trigger.periodic_schedule
        table.add_row(run.display_name, run.status, cron.cron if cron else f"every {periodic.interval_second} s")
    console.print(table)


@schedule_app.command()
def pause(name: NameArgument, host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """Start no more runs until `resume`."""
    changed = _cluster(host, namespace, token).pause(name)
    console.print(f"{name} is paused" if changed else f"{name} was paused already", highlight=False)


@schedule_app.command()
def resume(name: NameArgument, host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """Start runs again."""
    changed = _cluster(host, namespace, token).resume(name)
    console.print(f"{name} goes on" if changed else f"{name} was not paused", highlight=False)


@schedule_app.command()
def delete(name: NameArgument, host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """Remove a schedule. Its runs stay."""
    changed = _cluster(host, namespace, token).delete(name)
    console.print(f"{name} is removed" if changed else f"There is no {name}", highlight=False)


def _cluster(host: str | None, namespace: str | None, token: str | None) -> "Cluster":
    from pipeline.runners.kubeflow.client import Cluster

    return Cluster(host, namespace, token)


def _parameters(texts: list[str] | None) -> dict[str, object]:
    import yaml

    parameters = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise CaptchaPipelineError(f"--parameter {text}: write it as NAME=VALUE, such as epochs=1.")
        parameters[name.strip()] = yaml.safe_load(value)
    return parameters
