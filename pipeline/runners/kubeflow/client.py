"""Submits and schedules a compiled pipeline with the SDK of Kubeflow Pipelines.

Everything is looked up by name before it is created, so that a repeated request creates nothing twice.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import kfp
import kfp_server_api
import urllib3
from google.api_core.retry import Retry

from components.base.errors import CaptchaPipelineError
from pipeline.runners.kubeflow.compiled import Compiled

# The final states of a run: V2beta1RuntimeState of the API.
SUCCEEDED: Final = ("SUCCEEDED", "SKIPPED")
ENDED: Final = (*SUCCEEDED, "FAILED", "CANCELED")
_REQUEST_TIMEOUT: Final = 30  # seconds
_DRIVER: Final = "-driver"

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a pipeline on the cluster.

    Attributes:
      pipeline_id, version_id: the IDs on the cluster.
      name: contains a hash of the YAML.
      root: the URL under which its runs store their artifacts.
      steps: the names of its steps.
    """

    pipeline_id: str
    version_id: str
    name: str
    root: str
    steps: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a recurring run starts: `cron`, an expression of six fields with the seconds first, or `every`, an interval in seconds."""

    cron: str | None = None
    every: int | None = None


def _again(error: BaseException) -> bool:
    refused = isinstance(error, kfp_server_api.ApiException) and error.status is not None and error.status < 500 and error.status != 0
    return isinstance(error, kfp_server_api.ApiException | urllib3.exceptions.HTTPError) and not refused


class _Client(kfp.Client):
    """The SDK's client with one health check. The SDK itself makes five, five seconds apart, whatever the server answers."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        api = self._healthz_api
        ask = api.healthz_service_get_healthz if hasattr(api, "healthz_service_get_healthz") else api.get_healthz  # SDK 2.17, 2.5
        return ask(_request_timeout=_REQUEST_TIMEOUT)


class Cluster:
    """Kubeflow Pipelines at `host`.

    All methods raise CaptchaPipelineError if the server refuses, fails or does not answer.
    """

    def __init__(self, host: str | None, namespace: str | None, token: str | None, patience: float = 60.0):
        """
        Args:
          host: the address, such as http://localhost:8080; None for the cluster that this process runs in, as the SDK finds it.
          namespace: the user's namespace, if several users share the cluster. Kubeflow's own namespace is the SDK's default.
          token: the token of a user or service account; None for the SDK's own ways to authenticate.
          patience: the seconds during which a failed or unanswered request is repeated.

        Raises:
          CaptchaPipelineError: the server refuses, fails or does not answer.
        """
        self._host, self._namespace = host or "the cluster", namespace
        self._retry = Retry(predicate=_again, initial=0.5, maximum=10.0, multiplier=2.0, timeout=patience)
        self._client = self._ask(lambda: _Client(host=host, existing_token=token))
        api = self._client._run_api.api_client  # the client that all parts of the SDK share; they set no time limit
        call = api.call_api

        def within_time(*arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named | {"_request_timeout": _REQUEST_TIMEOUT})

        api.call_api = within_time

    def upload(self, pipeline: Path) -> Version:
        """Returns the version of the pipeline with exactly this YAML; uploads it if it does not exist."""
        compiled = Compiled.load(pipeline)
        name = compiled.name
        version_name = f"{name}-{hashlib.sha256(pipeline.read_bytes()).hexdigest()[:12]}"

        def find_or_upload() -> Version:
            known = self._client.list_pipelines(namespace=self._namespace, filter=_named(name)).pipelines or []
            there = known[0] if known else self._client.upload_pipeline(str(pipeline), pipeline_name=name, namespace=self._namespace)
            pipeline_id = there.pipeline_id
            versions = self._client.list_pipeline_versions(pipeline_id, filter=_named(version_name)).pipeline_versions or []
            found = versions[0] if versions else self._client.upload_pipeline_version(str(pipeline), version_name, pipeline_id=pipeline_id)
            return Version(pipeline_id, found.pipeline_version_id, version_name, compiled.root, frozenset(compiled.tasks))

        return self._ask(find_or_upload)

    def start(
        self, version: Version, experiment: str, parameters: Mapping[str, Any], service_account: str | None, *, new: bool = False
    ) -> tuple[str, str]:
        """Starts a run of this version with these parameters, unless one is active, or has succeeded.

        Args:
          version: what to run.
          experiment: the name of the experiment that groups the runs.
          parameters: of the run; the others have the pipeline's defaults.
          service_account: of the pods; None for Kubeflow's default.
          new: whether to start a run even if one has succeeded.

        Returns:
          The ID of the run, and the state in which it was found; "" if it was started now.
        """
        name = f"{version.name}-{_digest(parameters)}"
        done = () if new else SUCCEEDED

        def find_or_start() -> tuple[str, str]:
            experiment_id = self._experiment(experiment)
            there = self._client.list_runs(
                experiment_id=experiment_id, namespace=self._namespace, filter=_named(name), page_size=100, sort_by="created_at desc"
            )
            for run in sorted(there.runs or [], key=lambda run: run.state in ENDED):  # an active one first
                if run.state not in ENDED or run.state in done:
                    return run.run_id, run.state or "PENDING"
            with contextlib.redirect_stdout(None):  # the SDK prints a link
                run = self._client.run_pipeline(
                    experiment_id,
                    name,
                    params=dict(parameters),
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    pipeline_root=version.root,
                    service_account=service_account,
                )
            return run.run_id, ""

        return self._ask(find_or_start)

    def follow(self, version: Version, run_id: str, timeout: float | None = None, interval: float = 5.0) -> Iterator[tuple[str, str]]:
        """Yields (step, state) whenever the state of a step changes, and at the end ("", state) with the state of the run.

        The server reports the nodes of Argo's workflow: for each step one with the step's name, one for Kubeflow's driver, which prepares
        the step, and one or more named "executor" for its pods. A driver counts only if it fails: the step then has no node.

        Args:
          version: the version of the pipeline.
          run_id: the ID of the run.
          timeout: the seconds to wait for the end of the run; None for no limit.
          interval: the seconds between two requests.

        Raises:
          CaptchaPipelineError: the run has not ended after `timeout` seconds.
        """
        seen: dict[str, str] = {}
        started = time.monotonic()
        while True:
            run = self._ask(lambda: self._client.get_run(run_id))
            for task in (run.run_details and run.run_details.task_details) or []:
                step, is_driver = task.display_name.removesuffix(_DRIVER), task.display_name.endswith(_DRIVER)
                if step in version.steps and task.state and seen.get(step) != task.state and (task.state == "FAILED" or not is_driver):
                    seen[step] = task.state
                    yield step, task.state
            if run.state in ENDED:
                yield "", run.state
                return
            if timeout is not None and time.monotonic() - started > timeout:
                raise CaptchaPipelineError(
                    f"The run {run_id} is still {run.state} after {timeout:g} seconds. Give the same command again to follow it."
                )
            time.sleep(interval)

    def schedule(
        self, version: Version, experiment: str, name: str, when: Schedule, parameters: Mapping[str, Any], service_account: str | None
    ) -> bool:
        """Creates the recurring run `name`, one run at a time and without catching up.

        A recurring run of that name that differs is replaced, because the API cannot change it. The new one is created first, so that no
        run is missed.

        Returns:
          Whether anything was created; False if the recurring run already existed with these settings.
        """

        def find_or_make() -> bool:
            experiment_id = self._experiment(experiment)
            # The server fills in an account if the user gives none, so the description records the given one.
            description = f"By captcha-pipeline, service account: {service_account or 'the default'}"
            ours = (experiment_id, description, version.version_id, when, dict(parameters), version.root)
            before = self._recurring(name)
            same = next((found for found in before if _asked_for(found) == ours), None)
            if not same:
                self._client.create_recurring_run(
                    experiment_id,
                    name,
                    description,
                    cron_expression=when.cron,
                    interval_second=when.every,
                    max_concurrency=1,
                    no_catchup=True,
                    params=dict(parameters),
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    pipeline_root=version.root,
                    service_account=service_account,
                )
            for found in before:
                if found is not same:
                    self._client.delete_recurring_run(found.recurring_run_id)
            return not same

        return self._ask(find_or_make)

    def schedules(self) -> list[Any]:
        """Returns the recurring runs: V2beta1RecurringRun of the API."""

        def pages() -> list[Any]:
            found: list[Any] = []
            page = ""
            while True:
                answer = self._client.list_recurring_runs(page_token=page, page_size=100, namespace=self._namespace)
                found += answer.recurring_runs or []
                if not (page := answer.next_page_token or ""):
                    return found

        return self._ask(pages)

    def pause(self, name: str) -> bool:
        """Disables the recurring run; returns whether it was enabled."""
        return self._switch(name, "DISABLED", self._client.disable_recurring_run)

    def resume(self, name: str) -> bool:
        """Enables the recurring run again; returns whether it was paused."""
        return self._switch(name, "ENABLED", self._client.enable_recurring_run)

    def delete(self, name: str) -> bool:
        """Deletes the recurring run; returns whether it existed."""

        def remove() -> bool:
            found = self._recurring(name)
            for run in found:
                self._client.delete_recurring_run(run.recurring_run_id)
            return bool(found)

        return self._ask(remove)

    def _switch(self, name: str, status: str, act: Callable[..., Any]) -> bool:
        def switch() -> bool:
            found = self._recurring(name)
            if not found:
                raise CaptchaPipelineError(f"The recurring run {name} does not exist on {self._host}.")
            others = [run for run in found if run.status != status]
            for run in others:
                act(run.recurring_run_id)
            return bool(others)

        return self._ask(switch)

    def _experiment(self, name: str) -> str:
        experiment_id: str = self._client.create_experiment(name, namespace=self._namespace).experiment_id
        return experiment_id

    def _recurring(self, name: str) -> list[Any]:
        return self._client.list_recurring_runs(namespace=self._namespace, filter=_named(name)).recurring_runs or []

    def _ask(self, question: Callable[[], Result]) -> Result:
        """Repeats a request that the server failed. `question` looks before it creates anything, so nothing is created twice."""
        try:
            return self._retry(question)()
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, kfp_server_api.ApiException) and cause.status in (401, 403):
                raise CaptchaPipelineError(
                    f"{self._host} refused access ({cause.status} {cause.reason}). Give a token with access."
                ) from None
            if isinstance(cause, kfp_server_api.ApiException):
                raise CaptchaPipelineError(f"{self._host} answered {cause.status} {cause.reason}: {_message(cause)}") from None
            if isinstance(cause, urllib3.exceptions.HTTPError):
                raise CaptchaPipelineError(f"{self._host} does not answer: {cause}. Check the address.") from None
            raise


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _asked_for(run: Any) -> tuple[Any, ...]:
    """Returns the settings that a recurring run was created with: experiment, description, version, schedule, parameters, root."""
    cron, periodic = run.trigger.cron_schedule, run.trigger.periodic_schedule
    when = Schedule(cron.cron if cron else None, int(periodic.interval_second) if periodic else None)
    config = run.runtime_config
    given = (dict(config.parameters or {}), config.pipeline_root) if config else ({}, None)
    return run.experiment_id, run.description, run.pipeline_version_reference.pipeline_version_id, when, *given


def _digest(parameters: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:8]


def _message(error: kfp_server_api.ApiException) -> str:
    try:
        return str(json.loads(error.body)["error_message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or "no further message")
