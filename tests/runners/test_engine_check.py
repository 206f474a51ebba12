"""The errors of an engine that cannot do the work; tests/runners/test_flink_errors.py checks a real engine."""

import json
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import apache_beam
import pytest

from components.base.errors import CaptchaPipelineError
from pipeline.config.config import Config
from pipeline.config.engines import Engine
from pipeline.runners.beam import engine_check
from pipeline.runners.beam.engine_check import check_engines, reason_of
from pipeline.runners.beam.engine_trial import complaint, expected
from tests.support.command import call
from tests.support.paths import tiny_options

# The answers of Flink's REST API: about the cluster, and about a trial job that Flink restarts.
ANSWERS = {
    "/overview": {"flink-version": "1.20.5", "slots-total": 4, "taskmanagers": 2},
    "/jobs/overview": {
        "jobs": [
            {"jid": "7", "name": "captcha-pipeline-trial-00000000", "state": "RESTARTING"},
            {"jid": "8", "name": "captcha-pipeline-trial-11111111", "state": "RUNNING"},
        ]
    },
    "/jobs/7/exceptions": {
        "exceptionHistory": {"entries": [{"stacktrace": "java.lang.Exception: …\nModuleNotFoundError: No module named 'pipeline'\n"}]}
    },
}


@pytest.fixture
def changed() -> list[str]:
    """Returns the list of REST paths that were called to change something."""
    return []


@pytest.fixture
def rest(changed: list[str]) -> Iterator[str]:
    """Yields the address of a REST API that gives the ANSWERS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(ANSWERS[self.path]).encode())

        def do_PATCH(self) -> None:
            changed.append(self.path)
            self.send_response(202)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_trial(monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """Replaces the trial; returns the list of engines that would have been tried."""
    tried: list[Engine] = []
    monkeypatch.setattr(engine_check, "_try", lambda engine, folders, log: tried.append(engine))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return tried


def flink(**changes: Any) -> Engine:
    return Engine.model_validate({"runner": "FlinkRunner", "endpoint": "127.0.0.1:9", "parallelism": 4, **changes})


def check(*engines: Engine, folder: Path = Path("/nowhere")) -> None:
    check_engines(engines, [], folder / "engine.log")


def jar(folder: Path, release: str) -> str:
    path = folder / f"job-server-{release}.jar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("org/apache/beam/sdk/sdk.properties", f"# Beam\nversion={release}\nsdk_version={release}\n")
    return f"--flink_job_server_jar={path}"


def test_local_runners_are_not_checked(no_trial: list[Engine]) -> None:
    check(Engine(), Engine(parallelism=2))
    assert not no_trial


def test_each_engine_is_checked_once(no_trial: list[Engine], rest: str, tmp_path: Path) -> None:
    args = ("--flink_version=1.20", jar(tmp_path, apache_beam.__version__))
    engine = flink(endpoint=rest, args=args)
    check(engine, engine, Engine(), flink(endpoint=rest, parallelism=2, args=args))
    assert [tried.parallelism for tried in no_trial] == [4, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallelism": 5}, r"has 4 slots on 2 TaskManagers, but beam\.parallelism is 5\. Start more TaskManagers, or lower"),
        ({"args": ["--flink_version=1.2"]}, r"is release 1\.20\.5, but beam\.args has --flink_version=1\.2\. They must agree"),
        (
            {"args": ["--flink_job_server_jar=/jars/beam-runners-flink-1.19-job-server-2.74.0.jar"]},
            r"is release 1\.20\.5, but .*1\.19.* They must agree",
        ),
        ({"args": ["--flink_job_server_jar=/none.jar"]}, r"Cannot read the job server /none\.jar: No such file"),
        ({"args": [f"--flink_job_server_jar={__file__}"]}, r"test_engine_check\.py is not a job server of Beam"),
    ],
)
def test_settings_that_do_not_fit_flink_are_named(no_trial: list[Engine], rest: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaptchaPipelineError, match=message):
        check(flink(endpoint=rest, **changes))
    assert not no_trial


def test_a_job_server_of_another_release_is_named(no_trial: list[Engine], rest: str, tmp_path: Path) -> None:
    with pytest.raises(CaptchaPipelineError, match=rf"is of Beam 2\.10\.0, but this environment has Beam {apache_beam.__version__}"):
        check(flink(endpoint=rest, args=[jar(tmp_path, "2.10.0")]))


def test_missing_java_is_named(no_trial: list[Engine], rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CaptchaPipelineError, match=r"`java` is not installed\. Install Java 11 or 17"):
        check(flink(endpoint=rest))


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (flink(), r"Flink does not answer at 127\.0\.0\.1:9 \(.*refused.*--set beam\.endpoint=HOST:PORT"),
        (Engine(runner="PortableRunner", endpoint="127.0.0.1:9"), r"No job server answers at 127\.0\.0\.1:9 \(.*refused"),
        (Engine(runner="PortableRunner", endpoint="jobs"), r"No job server answers at jobs \("),
    ],
)
def test_an_engine_that_does_not_answer_is_named(no_trial: list[Engine], engine: Engine, message: str) -> None:
    with pytest.raises(CaptchaPipelineError, match=message):
        check(engine)


@pytest.mark.slow
def test_a_failed_trial_leaves_its_log(tmp_path: Path) -> None:
    """The runner does not exist: the trial is a real process, and fails."""
    with pytest.raises(CaptchaPipelineError, match=r"NoRunner: a trial job failed: .*NoRunner.* The full output is in .*engine\.log"):
        check(Engine(runner="NoRunner"), folder=tmp_path / "new")
    assert "Traceback" in (tmp_path / "new" / "engine.log").read_text(encoding="utf-8")


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the Python of the trial by a program that prints one line and then hangs."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho waiting for slots\nsleep 600 &\nwait\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))


@pytest.mark.usefixtures("hanging")
def test_a_trial_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_check, "_TRIAL_SECONDS", 1.0)
    with pytest.raises(CaptchaPipelineError, match=r"did not finish a trial job within"):
        check(Engine(runner="NoRunner"), folder=tmp_path)
    assert (tmp_path / "engine.log").read_text(encoding="utf-8") == "waiting for slots\n"


@pytest.mark.usefixtures("hanging")
def test_a_trial_that_flink_would_restart_is_cancelled(
    rest: str, changed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("uuid.uuid4", lambda: UUID(int=0))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(CaptchaPipelineError, match="its workers' Python has no module pipeline"):
        check(flink(endpoint=rest), folder=tmp_path)
    assert changed == ["/jobs/7?mode=cancel"]
    said = (tmp_path / "engine.log").read_text(encoding="utf-8")
    assert said.startswith("waiting for slots")
    assert "ModuleNotFoundError" in said


@pytest.mark.parametrize("command", ["run", "tune"])
def test_ctrl_c_during_the_check_stops_the_command(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(config: Config) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_check, "check_engines_of", stop)
    assert "Stopped." in call(command, *tiny_options(tmp_path), exit_code=130)


def test_workers_that_match_this_process_give_no_complaint(tmp_path: Path) -> None:
    assert complaint(json.loads(json.dumps(expected([str(tmp_path)])))) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": ["3", "7"]}, f"a worker runs Python {sys.version_info.major}.{sys.version_info.minor}, but this process runs 3.7"),
        ({"beam": "2.10.0"}, f"a worker has Beam {apache_beam.__version__}, but this process has 2.10.0"),
        ({"code": {}}, "a worker has another release of captcha-pipeline"),
        ({"folders": ["/nowhere"]}, "a worker cannot read and write /nowhere"),
    ],
)
def test_a_difference_of_a_worker_is_named(changes: dict[str, Any], message: str) -> None:
    assert complaint(json.loads(json.dumps(expected(()))) | changes).startswith(message)


def test_the_reason_is_the_last_error_in_the_output() -> None:
    said = """Pipeline a_1 failed in state FAILED: java.lang.RuntimeException: Error received from SDK harness
Traceback (most recent call last):
  File "a.py", line 1, in process
OSError: No space left on device [while running 'Write']
    at org.apache.flink.Task.run(Task.java:562)
    ... 12 more"""
    assert reason_of(said) == "OSError: No space left on device [while running 'Write']"
    assert reason_of("Pipeline a_1 failed in state FAILED: two.") == "two"
    assert reason_of("") == "no reason was given"
