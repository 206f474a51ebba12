"""Whether the engines that a run is to use can do its work, asked before it begins: a step would wait, or fail in many words."""

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
from pipeline.runs.fingerprint import look_around

_ANSWER_SECONDS: Final = 10.0  # for a request to Flink's REST
_TRIAL_SECONDS: Final = 120.0  # for the trial job, which takes some 20 on two cores
_POLL_SECONDS: Final = 0.5
_REASON_LENGTH: Final = 300
_JAR_OPTION: Final = "--flink_job_server_jar="
# The options that say for which release of Flink the job server is, and where in them.
_FLINK_NAMED_IN: Final = {"--flink_version=": "^(.+)$", _JAR_OPTION: r"beam-runners-flink-([\d.]+)-job-server[^/]*$"}
# Where every jar that holds Beam's Java SDK says of which release it is.
_RELEASE_FILE: Final = "org/apache/beam/sdk/sdk.properties"


def check_engines_of(config: Config) -> None:
    """Checks the engines of a run's steps, without importing TFX, which takes longer than most of what can be said here.

    Raises:
      CaptchaPipelineError: as `check_engines`, or there is nothing to run on.
    """
    engines = [config.beam.of(step) for step in get_args(GraphStep)]
    if any(engine.runner != LOCAL for engine in engines):
        look_around(config, 0)
        with writing_in(config.root):
            Path(config.root).mkdir(parents=True, exist_ok=True)
        check_engines(engines, [config.data.root, config.root], Path(config.engine_log))


def check_engines(engines: Iterable[Engine], folders: list[str], log: Path) -> None:
    """Checks of each engine but the local one that it answers, fits this Beam, and has workers with this code that see the folders.

    Args:
      engines: may hold one several times.
      folders: the workers have to read and write them.
      log: where the trial's output is left if it fails.

    Raises:
      CaptchaPipelineError: what is wrong with which, in one sentence, and what to do.
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
                f"Flink at {engine.endpoint} is {version}, but beam.args has {option}{_option(engine, option)}: they must agree."
            )
    slots = overview["slots-total"]
    if slots < (engine.parallelism or 1):
        raise CaptchaPipelineError(
            f"Flink at {engine.endpoint} has {slots} slots on {overview['taskmanagers']} TaskManagers, and beam.parallelism is "
            f"{engine.parallelism or 1}: start more TaskManagers, or lower it."
        )


def _check_port(engine: Engine) -> None:
    host, _, port = str(engine.endpoint).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise CaptchaPipelineError(f"No job server answers at {engine.endpoint} ({error}): beam.endpoint is its HOST:PORT.") from None


def _check_job_server(engine: Engine) -> None:
    if shutil.which("java") is None:
        raise CaptchaPipelineError("Beam's job server for Flink is a Java program, and there is no `java` here: install Java 11 or 17.")
    jar = _option(engine, _JAR_OPTION)
    if jar is None:
        return  # Beam gets the one of its own release
    try:
        with zipfile.ZipFile(jar) as archive:
            text = archive.read(_RELEASE_FILE).decode()
    except OSError as error:
        raise CaptchaPipelineError(f"Cannot read the job server {jar}: {error.strerror}. `make flink-up` says how to get it.") from None
    except (zipfile.BadZipFile, KeyError):
        raise CaptchaPipelineError(f"{jar} is not a job server of Beam: it has no {_RELEASE_FILE}.") from None
    found = re.search(r"^version=(\S+)", text, re.MULTILINE)
    release, ours = found.group(1) if found else "unknown", version("apache-beam")
    if release != ours:
        raise CaptchaPipelineError(
            f"The job server {jar} is of Beam {release}, and this environment has Beam {ours}: they must be the same."
        )


def _try(engine: Engine, folders: list[str], log: Path) -> None:
    name = f"captcha-pipeline-trial-{uuid.uuid4().hex[:8]}"
    program = [sys.executable, "-c", "from pipeline.runners.beam.engine_trial import main; main()"]
    arguments = [json.dumps(expected(folders)), str(engine.parallelism or 1), *engine.beam_args(name)]
    problem, failure, limit = "", "", time.monotonic() + _TRIAL_SECONDS
    with tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(  # noqa: S603  # of Beam's options, which whoever starts a run may set anyway
            [*program, *arguments], stdout=printed, stderr=printed, start_new_session=True
        )
        try:
            while process.poll() is None and not problem:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
                if failure := _failure(engine, name):
                    problem = _what_failed(failure, engine)
                elif time.monotonic() > limit:
                    problem = f"did not do a trial job within {_TRIAL_SECONDS:.0f} seconds"
        finally:
            # The job server too, which is the trial's child.
            _end(process)
        printed.seek(0)
        text = printed.read() + failure
    if process.returncode and not problem:
        problem = _what_failed(text, engine)
    if problem:
        _cancel(engine, name)
        write_whole(log, text)
        raise CaptchaPipelineError(f"{engine}: {problem}. All that it said is in {log}.")


def _what_failed(printed: str, engine: Engine) -> str:
    if found := re.search(re.escape(MARK) + r"([^\n\\]+)", printed):
        return found.group(1)
    if found := re.search(r"ModuleNotFoundError: No module named '(\w+)", printed):
        return f"its workers' Python has no module {found.group(1)}; they must have this project installed, as its image has"
    environment = engine.environment
    if environment and environment.type == "EXTERNAL" and "Connection refused" in printed:
        return f"no pool of Python workers answers at {environment.config}, as its workers see it"
    return f"a trial job failed: {reason_of(printed)}"


def reason_of(text: str) -> str:
    """Returns the last error that is named in what Beam says of a failed job: a chain of Java's, with Python's traceback in it."""
    named = re.findall(r"^(?:Caused by: )?([\w.]*(?:Error|Exception): .+)$", text, re.MULTILINE)
    lines = named or [line for line in text.splitlines() if line.strip()] or ["it does not say why"]
    return re.sub(r"^Pipeline \S+ failed in state \w+: ", "", str(lines[-1]).strip())[:_REASON_LENGTH].rstrip(".")


def _failure(engine: Engine, name: str) -> str:
    """Returns why a job failed that its engine may still start again, and again: what lacks something lacks it the next time as well."""
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
    """Cancels what the engine still does for a job that nobody waits for."""
    if engine.runner == FLINK:
        for job in _ask(engine, "/jobs/overview")["jobs"]:
            if job["name"].startswith(name) and job["state"] not in ("FINISHED", "FAILED", "CANCELED"):
                _ask(engine, f"/jobs/{job['jid']}?mode=cancel", method="PATCH")


def _ask(engine: Engine, path: str, method: str = "GET") -> Any:
    address = engine.endpoint if re.match("https?://", str(engine.endpoint)) else f"http://{engine.endpoint}"
    request = urllib.request.Request(f"{address}{path}", method=method)  # noqa: S310  # of these two schemes alone
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise CaptchaPipelineError(
            f"No Flink answers at {engine.endpoint} ({reason}). Start it, or name its JobManager's REST with --set beam.endpoint=HOST:PORT."
        ) from None


def _option(engine: Engine, name: str) -> str | None:
    return next((arg.removeprefix(name) for arg in engine.args if arg.startswith(name)), None)
