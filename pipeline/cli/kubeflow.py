"""`captcha-pipeline kubeflow …`: compiles, rehearses, submits and schedules the pipeline. Commands import heavy modules themselves."""

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

kubeflow_app = typer.Typer(no_args_is_help=True, help="Compile, rehearse, submit and schedule the pipeline on Kubeflow Pipelines.")
schedule_app = typer.Typer(no_args_is_help=True, help="Manage schedules, by which Kubeflow Pipelines starts runs, one at a time.")
kubeflow_app.add_typer(schedule_app, name="schedule")
console = Console()

PipelineArgument: TypeAlias = Annotated[Path, typer.Argument(help="Pipeline YAML written by `kubeflow compile`.")]
ParameterOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Run parameter, such as epochs=1. Can be repeated.")
]
HostOption: TypeAlias = Annotated[
    str | None, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of the API server, such as http://localhost:8080.")
]
NamespaceOption: TypeAlias = Annotated[str | None, typer.Option(help="Your namespace, if several users share the cluster.")]
# Other users of the machine can read command lines, so the help points to the environment variable.
TokenOption: TypeAlias = Annotated[
    str | None, typer.Option(envvar="KFP_TOKEN", help="Access token; better set in KFP_TOKEN (default: the SDK's own credentials).")
]
ExperimentOption: TypeAlias = Annotated[str, typer.Option(help="Kubeflow experiment that groups the runs.")]
AccountOption: TypeAlias = Annotated[str | None, typer.Option(help="Service account of the pods.")]
NameArgument: TypeAlias = Annotated[str, typer.Argument(help="Name of the schedule.")]


@kubeflow_app.command("compile")
def compile_command(
    output: Annotated[Path, typer.Option("--output", "-o", help="YAML file to write.")],
    config: ConfigOption = DEFAULT_CONFIG,
    overrides: SetOption = None,
    image: Annotated[str | None, typer.Option(help="Image of this project that the cluster pulls (default: kubeflow.image).")] = None,
    root: Annotated[str | None, typer.Option(help="URL for artifacts: s3://, gs:// or minio:// (default: kubeflow.root).")] = None,
) -> None:
    """Compile the pipeline to YAML for open-source Kubeflow Pipelines v2.

    Example:

    captcha-pipeline kubeflow compile -o pipeline.yaml --config configs/kubeflow.yaml --image registry/captcha:1 --root s3://bucket/folder
    """
    from pipeline.config.loading import load_config

    given = [f"kubeflow.{key}={value}" for key, value in (("image", image), ("root", root)) if value]
    settings = load_config(config, [*(overrides or []), *given])
    load_tensorflow()
    from pipeline.runners.kubeflow.compile import compile_pipeline

    write_whole(output, compile_pipeline(settings))
    console.print(f"Wrote {output}", highlight=False, soft_wrap=True)


@kubeflow_app.command()
def rehearse(
    pipeline: PipelineArgument,
    folder: Annotated[Path, typer.Option(help="Folder that replaces the cluster's object storage, cache and unfinished runs.")] = Path(
        "output/rehearsal"
    ),
    parameter: ParameterOption = None,
) -> None:
    """Run a compiled pipeline on this machine as Kubeflow would, each step in its own process. Exit code 1 if a step failed.

    The mount paths of its volumes must be folders on this machine. After a failure, the same command resumes at the failed step.
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
    new: Annotated[bool, typer.Option("--new", help="Run again although this pipeline has already succeeded.")] = False,
    wait: Annotated[bool, typer.Option(help="Follow the run until it ends.")] = True,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which to stop following (default: no limit).")] = None,
) -> None:
    """Upload a compiled pipeline and run it. Exit code 1 if the run failed.

    The same command follows an active run, starts a new one after a run that failed
    or was canceled, and does nothing after one that succeeded. With --new it runs the
    pipeline again, for example on new spans.
    """
    from pipeline.runners.kubeflow.client import SUCCEEDED

    parameters = _parameters(parameter)
    there = _cluster(host, namespace, token)
    version = there.upload(pipeline)
    run_id, found = there.start(version, experiment, parameters, service_account, new=new)
    if found in SUCCEEDED:
        console.print(f"Nothing was started: run {run_id} of {version.name} is {found}.", highlight=False, soft_wrap=True)
        console.print("Give --new to run it again, on the spans that are there now.", highlight=False, soft_wrap=True)
        return
    console.print(f"{'Following the active' if found else 'Started'} run {run_id} of {version.name}", highlight=False, soft_wrap=True)
    if not wait:
        return
    for step, state in there.follow(version, run_id, timeout):
        console.print(f"{step or 'Run'}: {state}", highlight=False)
    if state not in SUCCEEDED:
        raise CaptchaPipelineError(f"Run {run_id} is {state}. See the logs of its pods for the failed step and the error.")


@schedule_app.command("create")
def create_schedule(
    pipeline: PipelineArgument,
    name: Annotated[str, typer.Option(help="Name of the schedule.")],
    cron: Annotated[
        str | None, typer.Option(help="Cron expression of six fields, seconds first: `0 0 3 * * *` is 03:00 every night.")
    ] = None,
    every: Annotated[int | None, typer.Option(min=60, help="Interval between runs in seconds, instead of --cron.")] = None,
    host: HostOption = None,
    namespace: NamespaceOption = None,
    token: TokenOption = None,
    experiment: ExperimentOption = "captcha-pipeline",
    service_account: AccountOption = None,
    parameter: ParameterOption = None,
) -> None:
    """Schedule a compiled pipeline by cron expression or interval, one run at a time. Missed runs are skipped.

    An existing schedule of this name is replaced if it differs. Each run reads
    the spans that are the newest at its start.
    """
    if (cron is None) == (every is None):
        raise typer.BadParameter("give exactly one of --cron and --every")
    if cron is not None and len(cron.split()) != 6:
        raise typer.BadParameter(f"{cron!r} has {len(cron.split())} fields; give six, seconds first, such as '0 0 3 * * *'")
    parameters = _parameters(parameter)
    from pipeline.runners.kubeflow.client import Schedule

    there = _cluster(host, namespace, token)
    changed = there.schedule(there.upload(pipeline), experiment, name, Schedule(cron, every), parameters, service_account)
    console.print(f"Scheduled {name}" if changed else f"{name} is already scheduled with these settings", highlight=False)


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
    """Pause a schedule: start no runs until `resume`."""
    changed = _cluster(host, namespace, token).pause(name)
    console.print(f"Paused {name}" if changed else f"{name} is already paused", highlight=False)


@schedule_app.command()
def resume(name: NameArgument, host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """Resume a paused schedule."""
    changed = _cluster(host, namespace, token).resume(name)
    console.print(f"Resumed {name}" if changed else f"{name} is not paused", highlight=False)


@schedule_app.command()
def delete(name: NameArgument, host: HostOption = None, namespace: NamespaceOption = None, token: TokenOption = None) -> None:
    """Delete a schedule. Its past runs are kept."""
    changed = _cluster(host, namespace, token).delete(name)
    console.print(f"Deleted {name}" if changed else f"{name} does not exist", highlight=False)


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
