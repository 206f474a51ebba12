"""Submitting and scheduling with the real SDK, against an API that checks every request against its description."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.base.errors import CaptchaPipelineError
from pipeline.runners.kubeflow.client import ENDED, Cluster, Schedule
from tests.support.command import call
from tests.support.kfp_stand_in import StandIn, stand_in

NIGHTLY = Schedule(cron="0 0 3 * * *")
PIPELINE = """\
pipelineInfo: {name: letters}
defaultPipelineRoot: s3://bucket/letters
root: {dag: {tasks: {Fit: {}, Judge: {}}}}
schemaVersion: 2.1.0
sdkVersion: tfx-1.0.0
deploymentSpec: {executors: {}}
"""


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in() as server:
        yield server


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    return path


def cluster(server: StandIn, token: str | None = None, patience: float = 5.0) -> Cluster:
    return Cluster(server.host, None, token, patience)


def test_a_version_is_uploaded_once(server: StandIn, pipeline: Path) -> None:
    first = cluster(server).upload(pipeline)
    assert server.made() == ["POST /apis/v2beta1/pipelines/upload", "POST /apis/v2beta1/pipelines/upload_version"]
    assert cluster(server).upload(pipeline) == first
    assert len(server.made()) == 2
    pipeline.write_text(PIPELINE + "# changed\n")
    second = cluster(server).upload(pipeline)
    assert (second.pipeline_id, second.name == first.name) == (first.pipeline_id, False)


@pytest.mark.parametrize("end", ENDED)
def test_a_run_is_started_once_and_again_if_it_failed_or_on_request(server: StandIn, pipeline: Path, end: str) -> None:
    version = cluster(server).upload(pipeline)
    first, found = cluster(server).start(version, "captcha", {"epochs": 3}, "runner")
    assert found == "", "it was started now"
    run = server.store["runs"][first]
    assert run["pipeline_version_reference"] == {"pipeline_id": version.pipeline_id, "pipeline_version_id": version.version_id}
    assert run["runtime_config"] == {"parameters": {"epochs": 3}, "pipeline_root": "s3://bucket/letters"}
    assert run["service_account"] == "runner"
    assert cluster(server).start(version, "captcha", {"epochs": 3}, "runner") == (first, "PENDING")
    other, found = cluster(server).start(version, "captcha", {"epochs": 4}, "runner")
    assert found == ""
    assert other != first
    run["state"] = end
    again, found = cluster(server).start(version, "captcha", {"epochs": 3}, "runner")
    assert (again == first, found) == ((True, end) if end in ("SUCCEEDED", "SKIPPED") else (False, ""))
    server.store["runs"][again]["state"] = end
    new, found = cluster(server).start(version, "captcha", {"epochs": 3}, "runner", new=True)
    assert found == ""
    assert new not in (first, other, again)
    for request in (False, True):
        assert cluster(server).start(version, "captcha", {"epochs": 3}, "runner", new=request) == (new, "PENDING"), "it is active"


def nodes(**states: str) -> dict[str, Any]:
    """Returns the details of a run as the API server makes them from the nodes of Argo's workflow: an entry for each node, sorted by ID."""
    names = {"root_driver": "root-driver", "Fit_driver": "Fit-driver", "Judge_driver": "Judge-driver"}
    shown = {name: names.get(name, name.partition("_")[0]) for name in states}
    tasks = [{"run_id": "1", "task_id": name, "display_name": shown[name], "state": state} for name, state in states.items()]
    return {"task_details": sorted(tasks, key=lambda task: task["task_id"])}


def test_the_steps_of_a_run_are_followed_to_its_end(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    version = there.upload(pipeline)
    run_id, _ = there.start(version, "captcha", {}, None)
    run = server.store["runs"][run_id]
    begun = {"root": "RUNNING", "root_driver": "SUCCEEDED", "Fit_driver": "RUNNING"}
    run |= {"state": "RUNNING", "run_details": nodes(**begun)}
    states = there.follow(version, run_id, interval=0.01)

    def later() -> None:
        run["run_details"] = nodes(**begun | {"Fit_driver": "SUCCEEDED", "Fit": "RUNNING", "executor_1": "RUNNING"})

    timer = threading.Timer(0.2, later)
    timer.start()
    assert next(states) == ("Fit", "RUNNING"), "its driver does not count"
    timer.join()
    done = {"Fit_driver": "SUCCEEDED", "Fit": "SUCCEEDED", "executor_1": "FAILED", "executor_2": "SUCCEEDED", "executor_3": "RUNNING"}
    run["run_details"] = nodes(**begun | done | {"Judge_driver": "SUCCEEDED", "Judge": "RUNNING"})
    assert [next(states), next(states)] == [("Fit", "SUCCEEDED"), ("Judge", "RUNNING")], "the pods of all steps have one name"
    run |= {"state": "SUCCEEDED", "run_details": nodes(**begun | done | {"Judge": "SUCCEEDED"})}
    assert list(states) == [("Judge", "SUCCEEDED"), ("", "SUCCEEDED")]


def test_a_step_whose_driver_fails_is_reported(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    version = there.upload(pipeline)
    run_id, _ = there.start(version, "captcha", {}, None)
    server.store["runs"][run_id] |= {"state": "FAILED", "run_details": nodes(root="FAILED", root_driver="SUCCEEDED", Fit_driver="FAILED")}
    assert list(there.follow(version, run_id)) == [("Fit", "FAILED"), ("", "FAILED")]


def test_users_who_share_a_cluster_may_have_pipelines_of_one_name(server: StandIn, pipeline: Path) -> None:
    ours, theirs = (Cluster(server.host, namespace, None, 5.0).upload(pipeline) for namespace in ("us", "them"))
    assert ours.pipeline_id != theirs.pipeline_id
    assert [it["namespace"] for it in server.store["pipelines"].values()] == ["us", "them"]
    assert Cluster(server.host, "us", None, 5.0).upload(pipeline) == ours


def test_a_schedule_is_made_once_and_replaced_when_it_differs(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    version = there.upload(pipeline)
    assert there.schedule(version, "captcha", "nightly", NIGHTLY, {"window": 3}, None)
    (run,) = server.store["recurringruns"].values()
    assert (int(run["max_concurrency"]), run["no_catchup"]) == (1, True)
    assert run["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert not there.schedule(version, "captcha", "nightly", NIGHTLY, {"window": 3}, None)
    assert there.schedule(version, "captcha", "nightly", Schedule(every=3600), {"window": 3}, None)
    (run,) = server.store["recurringruns"].values()
    assert list(run["trigger"]) == ["periodic_schedule"]
    assert not there.schedule(version, "captcha", "nightly", Schedule(every=3600), {"window": 3}, None)
    assert [found.display_name for found in there.schedules()] == ["nightly"]


def test_a_schedule_is_replaced_without_a_gap(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    assert there.schedule(there.upload(pipeline), "captcha", "nightly", NIGHTLY, {}, None)
    (run,) = server.store["recurringruns"].values()
    assert run["runtime_config"]["pipeline_root"] == "s3://bucket/letters"
    before = len(server.made())
    pipeline.write_text(PIPELINE.replace("s3://bucket/letters", "s3://elsewhere/letters"))
    version = there.upload(pipeline)
    assert there.schedule(version, "captcha", "nightly", NIGHTLY, {}, None)
    (run,) = server.store["recurringruns"].values()
    assert run["runtime_config"]["pipeline_root"] == "s3://elsewhere/letters"
    changes = [request for request in server.made()[before:] if "recurringruns" in request]
    assert changes == ["POST /apis/v2beta1/recurringruns", "DELETE /apis/v2beta1/recurringruns/ID"]
    run["runtime_config"]["pipeline_root"] = "s3://bucket/letters"
    assert there.schedule(version, "captcha", "nightly", NIGHTLY, {}, None), "its artifacts went elsewhere"


def test_a_schedule_is_replaced_when_its_account_or_experiment_differs(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    version = there.upload(pipeline)

    def schedule(experiment: str, account: str | None) -> bool:
        return there.schedule(version, experiment, "nightly", NIGHTLY, {}, account)

    assert schedule("captcha", None)
    (run,) = server.store["recurringruns"].values()
    assert run["service_account"] == "pipeline-runner", "the server puts its default in"
    assert not schedule("captcha", None)
    assert schedule("captcha", "captcha-steps")
    assert not schedule("captcha", "captcha-steps")
    (run,) = server.store["recurringruns"].values()
    assert run["service_account"] == "captcha-steps"
    assert schedule("captcha", None), "back to the default"
    assert schedule("another", None)
    assert not schedule("another", None)
    (run,) = server.store["recurringruns"].values()
    assert server.store["experiments"][run["experiment_id"]]["display_name"] == "another"


def test_pause_resume_and_delete_take_effect_once(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    there.schedule(there.upload(pipeline), "captcha", "nightly", NIGHTLY, {}, None)
    assert [there.pause("nightly"), there.pause("nightly")] == [True, False]
    assert [there.resume("nightly"), there.resume("nightly")] == [True, False]
    assert [there.delete("nightly"), there.delete("nightly")] == [True, False]
    with pytest.raises(CaptchaPipelineError, match="The recurring run nightly does not exist on http"):
        there.pause("nightly")


def test_a_refused_token_is_reported(server: StandIn, pipeline: Path) -> None:
    server.token = "secret"
    with pytest.raises(CaptchaPipelineError, match=r"refused access \(401 Unauthorized\)\. Give a token with access"):
        cluster(server, "wrong").upload(pipeline)
    cluster(server, "secret").upload(pipeline)


@pytest.mark.slow
def test_requests_are_repeated_without_duplicates_after_a_server_error(server: StandIn, pipeline: Path) -> None:
    there = cluster(server)
    server.errors = [503, 500]
    version = there.upload(pipeline)
    server.errors = [502]
    there.start(version, "captcha", {}, None)
    assert server.made().count("POST /apis/v2beta1/pipelines/upload") == 1
    assert len(server.store["runs"]) == 1


def test_a_server_that_does_not_recover_is_reported(server: StandIn, pipeline: Path) -> None:
    there = cluster(server, patience=1.0)
    server.errors = [500] * 50
    with pytest.raises(CaptchaPipelineError, match="answered 500 Internal Server Error: the database is away"):
        there.upload(pipeline)


@pytest.mark.slow
def test_a_missing_answer_is_reported(server: StandIn, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runners.kubeflow.client._REQUEST_TIMEOUT", 1)
    there = cluster(server, patience=1.0)
    server.delay = 3.0
    with pytest.raises(CaptchaPipelineError, match="does not answer"):
        there.upload(pipeline)


def test_a_missing_server_is_reported(pipeline: Path) -> None:
    with stand_in() as server:
        host = server.host
    with pytest.raises(CaptchaPipelineError, match=r"http://127\.0\.0\.1:\d+ does not answer"):
        Cluster(host, None, None, patience=1.0).upload(pipeline)


@pytest.mark.slow
def test_the_kubeflow_commands(server: StandIn, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.host)
    monkeypatch.setenv("KFP_TOKEN", "secret")
    server.token = "secret"
    assert "Started run" in call("kubeflow", "submit", str(pipeline), "-p", "epochs=3", "--no-wait")
    (run,) = server.store["runs"].values()
    assert run["runtime_config"]["parameters"] == {"epochs": 3}
    assert "Following the active run" in call("kubeflow", "submit", str(pipeline), "-p", "epochs=3", "--no-wait")
    run["state"] = "SUCCEEDED"
    output = call("kubeflow", "submit", str(pipeline), "-p", "epochs=3")
    assert "Nothing was started: run" in output
    assert "Give --new" in output
    assert "Started run" in call("kubeflow", "submit", str(pipeline), "-p", "epochs=3", "--no-wait", "--new")
    newest = list(server.store["runs"].values())[-1]
    assert newest is not run
    newest["state"] = "RUNNING"
    with pytest.raises(CaptchaPipelineError, match="is still RUNNING after 0 seconds"):
        call("kubeflow", "submit", str(pipeline), "-p", "epochs=3", "--timeout", "0")
    timer = threading.Timer(0.5, newest.update, [{"state": "SUCCEEDED"}])
    timer.start()
    assert "Run: SUCCEEDED" in call("kubeflow", "submit", str(pipeline), "-p", "epochs=3")
    timer.join()

    create = ("kubeflow", "schedule", "create", str(pipeline), "--name", "nightly")
    call(*create, exit_code=2)
    assert "has 5 fields" in call(*create, "--cron", "0 3 * * *", exit_code=2)
    assert "Scheduled nightly\n" in call(*create, "--cron", "0 0 3 * * *")
    assert "already scheduled with these settings" in call(*create, "--cron", "0 0 3 * * *")
    assert "0 0 3 * * *" in call("kubeflow", "schedule", "list")
    assert "Paused nightly" in call("kubeflow", "schedule", "pause", "nightly")
    assert "Resumed nightly" in call("kubeflow", "schedule", "resume", "nightly")
    assert "Deleted nightly" in call("kubeflow", "schedule", "delete", "nightly")
    assert "nightly does not exist" in call("kubeflow", "schedule", "delete", "nightly")


@pytest.mark.slow
def test_a_failed_run_is_an_error(server: StandIn, pipeline: Path) -> None:
    call("kubeflow", "submit", str(pipeline), "--host", server.host, "--no-wait")
    (run,) = server.store["runs"].values()

    def fail() -> None:
        run["state"] = "FAILED"

    timer = threading.Timer(0.5, fail)
    timer.start()
    with pytest.raises(CaptchaPipelineError, match="is FAILED"):
        call("kubeflow", "submit", str(pipeline), "--host", server.host)
    timer.join()
