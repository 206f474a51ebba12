"""Submits and schedules a compiled pipeline, with Kubeflow Pipelines' own SDK.

Everything is looked up by name before it is made: a command that is given twice changes nothing the second time.
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

# States of a run that it does not leave: V2beta1RuntimeState of the API.
ENDED: Final = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
_REQUEST_TIMEOUT: Final = 30  # seconds

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Version:
    """A version of a pipeline on the cluster. Its name is that of the content of its YAML."""

    pipeline_id: str
    version_id: str
    name: str


@dataclasses.dataclass(frozen=True)
class Schedule:
    """When a recurring run starts: a cron expression of six fields, seconds first, or every so many seconds."""

    cron: str | None = None
    every: int | None = None


def _again(error: BaseException) -> bool:
    refused = isinstance(error, kfp_server_api.ApiException) and error.status is not None and error.status < 500 and error.status != 0
    return isinstance(error, kfp_server_api.ApiException | urllib3.exceptions.HTTPError) and not refused


class _Client(kfp.Client):
    """The SDK's, which asks for the server's health five times, five seconds apart, whatever is answered."""

    def get_kfp_healthz(self, sleep_duration: int = 0) -> Any:
        api = self._healthz_api
        ask = api.healthz_service_get_healthz if hasattr(api, "healthz_service_get_healthz") else api.get_healthz  # SDK 2.17, 2.5
        return ask(_request_timeout=_REQUEST_TIMEOUT)


class Cluster:
    """Kubeflow Pipelines at `host`."""

    def __init__(self, host: str | None, namespace: str | None, token: str | None, patience: float = 60.0):
        """
        Args:
          host: such as http://localhost:8080; None for the cluster that this process is in, as the SDK finds it.
          namespace: where more than one user shares the cluster.
          token: of a user or service account; None for the SDK's own ways.
          patience: seconds for which a server that fails, or does not answer, is tried again.

        Raises:
          CaptchaPipelineError: the server refuses, fails or does not answer. So do all methods.
        """
        self._host, self._namespace = host or "the cluster", namespace
        self._retry = Retry(predicate=_again, initial=0.5, maximum=10.0, multiplier=2.0, timeout=patience)
        self._client = self._ask(lambda: _Client(host=host, namespace=namespace or "kubeflow", existing_token=token))
        api = self._client._run_api.api_client  # the one client of all of the SDK's parts, which have no time limit of their own
        call = api.call_api

        def within_time(*arguments: Any, **named: Any) -> Any:
            return call(*arguments, **named | {"_request_timeout": _REQUEST_TIMEOUT})

        api.call_api = within_time

    def upload(self, pipeline: Path) -> Version:
        """Returns the version of the pipeline with just this YAML; it is uploaded if there is none."""
        name = Compiled.load(pipeline).name
        version_name = f"{name}-{hashlib.sha256(pipeline.read_bytes()).hexdigest()[:12]}"

        def find_or_upload() -> Version:
            pipeline_id = self._client.get_pipeline_id(name)
            if pipeline_id is None:
                pipeline_id = self._client.upload_pipeline(str(pipeline), pipeline_name=name, namespace=self._namespace).pipeline_id
            versions = self._client.list_pipeline_versions(pipeline_id, filter=_named(version_name)).pipeline_versions or []
            found = versions[0] if versions else self._client.upload_pipeline_version(str(pipeline), version_name, pipeline_id=pipeline_id)
            return Version(pipeline_id, found.pipeline_version_id, version_name)

        return self._ask(find_or_upload)

    def start(self, version: Version, experiment: str, parameters: Mapping[str, Any], service_account: str | None) -> tuple[str, bool]:
        """Returns the ID of the run of this version with these parameters, and whether it has been started now.

        One that has failed or was canceled does not count: another is started.
        """
        name = f"{version.name}-{_digest(parameters)}"

        def find_or_start() -> tuple[str, bool]:
            experiment_id = self._experiment(experiment)
            runs = self._client.list_runs(experiment_id=experiment_id, namespace=self._namespace, filter=_named(name)).runs or []
            for run in runs:
                if run.state not in ("FAILED", "CANCELED"):
                    return run.run_id, False
            with contextlib.redirect_stdout(None):  # the SDK prints a link
                run = self._client.run_pipeline(
                    experiment_id,
                    name,
                    params=dict(parameters),
                    pipeline_id=version.pipeline_id,
                    version_id=version.version_id,
                    service_account=service_account,
                )
            return run.run_id, True

        return self._ask(find_or_start)

    def follow(self, run_id: str, timeout: float | None = None, interval: float = 5.0) -> Iterator[tuple[str, str]]:
        """Yields (step, state) whenever the state of a step changes, and at last ("", state) of the run that has ended.

        Raises:
          CaptchaPipelineError: after `timeout` seconds it has not ended.
        """
        seen: dict[str, str] = {}
        started = time.monotonic()
        while True:
            run = self._ask(lambda: self._client.get_run(run_id))
            for task in (run.run_details and run.run_details.task_details) or []:
                if task.state and seen.get(task.display_name) != task.state:
                    seen[task.display_name] = task.state
                    yield task.display_name, task.state
            if run.state in ENDED:
                yield "", run.state
                return
            if timeout is not None and time.monotonic() - started > timeout:
                raise CaptchaPipelineError(
                    f"The run {run_id} is {run.state} after {timeout:g} seconds, and goes on. The same command follows it again."
                )
            time.sleep(interval)

    def schedule(
        self, version: Version, experiment: str, name: str, when: Schedule, parameters: Mapping[str, Any], service_account: str | None
    ) -> bool:
        """Makes the recurring run `name`, one at a time and without catching up; returns whether it was not there just so.

        One of that name that differs is replaced: the API has no way to change it.
        """

        def find_or_make() -> bool:
            experiment_id = self._experiment(experiment)
            # The server puts an account of its own in where none is given: what was given is in the description.
            description = f"By captcha-pipeline, service account: {service_account or 'the default'}"
            ours = (experiment_id, description, version.version_id, when, dict(parameters))
            same = False
            for found in self._recurring(name):
                if not same and ours == _asked_for(found):
                    same = True
                else:
                    self._client.delete_recurring_run(found.recurring_run_id)
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
                    service_account=service_account,
                )
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
        """Stops the recurring run from starting any more; returns whether it did until now."""
        return self._switch(name, "DISABLED", self._client.disable_recurring_run)

    def resume(self, name: str) -> bool:
        """Has the recurring run start again; returns whether it was paused."""
        return self._switch(name, "ENABLED", self._client.enable_recurring_run)

    def delete(self, name: str) -> bool:
        """Removes the recurring run; returns whether there was one."""

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
                raise CaptchaPipelineError(f"There is no recurring run {name} on {self._host}.")
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
        """Asks again where the server failed. What is asked looks before it makes anything, so that nothing is made twice."""
        try:
            return self._retry(question)()
        except Exception as error:
            cause = error.__cause__ or error
            if isinstance(cause, kfp_server_api.ApiException) and cause.status in (401, 403):
                raise CaptchaPipelineError(f"{self._host} refuses ({cause.status} {cause.reason}): give a token that may.") from None
            if isinstance(cause, kfp_server_api.ApiException):
                raise CaptchaPipelineError(f"{self._host} answers {cause.status} {cause.reason}: {_message(cause)}") from None
            if isinstance(cause, urllib3.exceptions.HTTPError):
                raise CaptchaPipelineError(f"{self._host} does not answer: {cause}. Is the address right?") from None
            raise


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _asked_for(run: Any) -> tuple[Any, ...]:
    """Returns what a recurring run was made with: experiment, description, version, when, parameters."""
    cron, periodic = run.trigger.cron_schedule, run.trigger.periodic_schedule
    when = Schedule(cron.cron if cron else None, int(periodic.interval_second) if periodic else None)
    parameters = dict(run.runtime_config.parameters or {}) if run.runtime_config else {}
    return run.experiment_id, run.description, run.pipeline_version_reference.pipeline_version_id, when, parameters


def _digest(parameters: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(parameters), sort_keys=True).encode()).hexdigest()[:8]


def _message(error: kfp_server_api.ApiException) -> str:
    try:
        return str(json.loads(error.body)["error_message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or "no more is said")
