"""Checks before a run that its engines can do the work. Otherwise a step would wait, or fail with a long error."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, get_args

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.files import write_whole
from pipeline.config.config import Config
from pipeline.config.engines import FLINK, LOCAL, PORTABLE, Engine, GraphStep
from pipeline.runners.beam.engine_trial import MARK, expected
from pipeline.runs.inputs import run_inputs

_ANSWER_SECONDS: Final = 10.0  # for a request to Flink's REST API
_TRIAL_SECONDS: Final = 120.0  # for the trial job, which takes about 20 seconds on two cores
_POLL_SECONDS: Final = 0.5
_REASON_LENGTH: Final = 300
_JAR_OPTION: Final = "--flink_job_server_jar="
# The options that give the job server's release of Flink, and the pattern of the release in their values.
_FLINK_NAMED_IN: Final = {"--flink_version=": "^(.+)$", _JAR_OPTION: r"beam-runners-flink-([\d.]+)-job-server[^/]*$"}
# The file in every jar of Beam's Java SDK that gives the release of the SDK.
_RELEASE_FILE: Final = "org/apache/beam/sdk/sdk.properties"


def check_engines_of(config: Config) -> None:
    """Checks the engines of a run's steps. It does not import TFX, because that takes longer than most of the checks.

    Raises:
      CaptchaPipelineError: as `check_engines`, or as `run_inputs`.
    """
    engines = [config.beam.of(step) for step in get_args(GraphStep)]
    if any(engine.runner != LOCAL for engine in engines):
        run_inputs(config, 0)
        with writing_in(config.root):
            Path(config.root).mkdir(parents=True, exist_ok=True)
        check_engines(engines, [config.data.root, config.root], Path(config.engine_log))


def check_engines(engines: Iterable[Engine], folders: list[str], log: Path) -> None:
    """Checks that each engine except the local one answers, fits this Beam, and has workers with this code and access to the folders.

    Args:
      engines: the engines; an engine may occur several times.
      folders: the folders that the workers have to read and write.
      log: the file for the output of a trial that fails.

    Raises:
      CaptchaPipelineError: an engine fails a check. The message names the engine, the problem and the remedy.
    """
    checked: list[Engine] = []
    for engine in engines:
        if engine.runner != LOCAL and engine not in checked:
            if engine.runner == FLINK:
                _check_cluster(engine)
                _check_job_server(engine)
            elif engine.runner == PORTABLE:
                _check_port(engine)
            _try(engine, folders, log)
            checked.append(engine)


def _check_cluster(engine: Engine) -> None:
    overview = _ask(engine, "/overview")
    version = overview["flink-version"]
    for option, pattern in _FLINK_NAMED_IN.items():
        named = re.search(pattern, _option(engine, option) or "")
        if named and not f"{version}.".startswith(f"{named.group(1)}."):
            raise CaptchaPipelineError(
                f"Flink at {engine.endpoint} is release {version}, but beam.args has {option}{_option(engine, option)}. They must agree."
            )
    slots = overview["slots-total"]
    if slots < (engine.parallelism or 1):
        raise CaptchaPipelineError(
            f"Flink at {engine.endpoint} has {slots} slots on {overview['taskmanagers']} TaskManagers, but beam.parallelism is "
            f"{engine.parallelism or 1}. Start more TaskManagers, or lower beam.parallelism."
        )


def _check_port(engine: Engine) -> None:
    host, _, port = str(engine.endpoint).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise CaptchaPipelineError(f"No job server answers at {engine.endpoint} ({error}). Set beam.endpoint to its HOST:PORT.") from None


def _check_job_server(engine: Engine) -> None:
    if shutil.which("java") is None:
        raise CaptchaPipelineError("Beam's job server for Flink needs Java, but `java` is not installed. Install Java 11 or 17.")
    jar = _option(engine, _JAR_OPTION)
    if jar is None:
        return  # Beam downloads the jar of its own release
    try:
        with zipfile.ZipFile(jar) as archive:
            text = archive.read(_RELEASE_FILE).decode()
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read the job server {jar}: {error.strerror}. `make job-server` downloads it.") from None
    except (zipfile.BadZipFile, KeyError):
        raise CaptchaPipelineError(f"{jar} is not a job server of Beam: it has no {_RELEASE_FILE}.") from None
    found = re.search(r"^version=(\S+)", text, re.MULTILINE)
    release, ours = found.group(1) if found else "unknown", version("apache-beam")
    if release != ours:
        raise CaptchaPipelineError(
            f"The job server {jar} is of Beam {release}, but this environment has Beam {ours}. Use the same release."
        )


def _try(engine: Engine, folders: list[str], log: Path) -> None:
    name = f"captcha-pipeline-trial-{uuid.uuid4().hex[:8]}"
    program = [sys.executable, "-c", "from pipeline.runners.beam.engine_trial import main; main()"]
    arguments = [json.dumps(expected(folders)), str(engine.parallelism or 1), *engine.beam_args(name)]
    problem, failure, limit = "", "", time.monotonic() + _TRIAL_SECONDS
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(  # noqa: S603  # the arguments are Beam's options, which the user may set anyway
            [*program, *arguments], stdout=printed, stderr=printed, start_new_session=True
        )
        try:
            while process.poll() is None and not problem:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                if failure := _failure(engine, name):
                    problem = _what_failed(failure, engine)
                elif time.monotonic() > limit:
                    problem = f"did not finish a trial job within {_TRIAL_SECONDS:.0f} seconds"
        finally:
            # This also ends the job server, a child of the trial process.
            _end(process)
        printed.seek(0)
        text = printed.read() + failure
    if process.returncode and not problem:
        problem = _what_failed(text, engine)
    if problem:
        _cancel(engine, name)
        write_whole(log, text)
        raise CaptchaPipelineError(f"{engine}: {problem}. The full output is in {log}.")


def _what_failed(printed: str, engine: Engine) -> str:
    if found := re.search(re.escape(MARK) + r"([^\n\\]+)", printed):
        return found.group(1)
    if found := re.search(r"ModuleNotFoundError: No module named '(\w+)", printed):
        return f"its workers' Python has no module {found.group(1)}. Install this project there, or use its image"
    environment = engine.environment
    if environment and environment.type == "EXTERNAL" and "Connection refused" in printed:
        return f"no pool of Python workers answers at {environment.config}, seen from the engine"
    return f"a trial job failed: {reason_of(printed)}"


def reason_of(text: str) -> str:
    """Returns the last error in Beam's message about a failed job: a chain of Java exceptions with a Python traceback in it."""
    named = re.findall(r"^(?:Caused by: )?([\w.]*(?:Error|Exception): .+)$", text, re.MULTILINE)
    lines = named or [line for line in text.splitlines() if line.strip()] or ["no reason was given"]
    return re.sub(r"^Pipeline \S+ failed in state \w+: ", "", str(lines[-1]).strip())[:_REASON_LENGTH].rstrip(".")


def _failure(engine: Engine, name: str) -> str:
    """Returns the exceptions of a job, even if its engine still restarts it: what is missing now is missing at every restart."""
    if engine.runner != FLINK:
        return ""
    jobs = [job["jid"] for job in _ask(engine, "/jobs/overview")["jobs"] if job["name"].startswith(name)]
    entries = [entry for job in jobs for entry in _ask(engine, f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]]
    return "\n".join(entry["stacktrace"] for entry in entries)


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _cancel(engine: Engine, name: str) -> None:
    """Cancels a job on the engine that nobody waits for any more."""
    if engine.runner == FLINK:
        for job in _ask(engine, "/jobs/overview")["jobs"]:
            if job["name"].startswith(name) and job["state"] not in ("FINISHED", "FAILED", "CANCELED"):
                _ask(engine, f"/jobs/{job['jid']}?mode=cancel", method="PATCH")


def _ask(engine: Engine, path: str, method: str = "GET") -> Any:
    address = engine.endpoint if re.match("https?://", str(engine.endpoint)) else f"http://{engine.endpoint}"
    request = urllib.request.Request(f"{address}{path}", method=method)  # noqa: S310  # only http and https
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CaptchaPipelineError(
            f"Flink does not answer at {engine.endpoint} ({reason}). Start it, or set its REST address with --set beam.endpoint=HOST:PORT."
        ) from None


def _option(engine: Engine, name: str) -> str | None:
    return next((arg.removeprefix(name) for arg in engine.args if arg.startswith(name)), None)
