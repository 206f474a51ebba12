"""Retraining by cron on this machine: real processes, real signals."""

import configparser
import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import typer

from components.base.errors import CaptchaPipelineError
from pipeline.cli.main import app
from pipeline.config.config import Config
from pipeline.config.loading import load_config
from pipeline.runs.scheduler import Scheduler, retrain_command, status
from tests.support.command import call
from tests.support.paths import ROOT, TINY

pytestmark = pytest.mark.slow

# Records that it has begun; if interrupted, records that and ends, as a run does.
WORKER = """
import pathlib, sys, time
log, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
log.open("a").write("begun\\n")
try:
    time.sleep(seconds)
except KeyboardInterrupt:
    log.open("a").write("stopped\\n")
    sys.exit(130)
log.open("a").write("done\\n")
"""
SERVE = """
import sys
from pathlib import Path
from components.base.errors import CaptchaPipelineError
from pipeline.config.loading import load_config
from apscheduler.triggers.interval import IntervalTrigger
from pipeline.runs.scheduler import Scheduler
EVERY_MINUTE = "* * * * *"
root, cron, config, *command = sys.argv[1:]
try:
    scheduler = Scheduler(load_config(Path(config), [f"root={root}"]), cron, command)
    if cron == EVERY_MINUTE:
        scheduler._trigger = IntervalTrigger(seconds=1)  # a minute is long for a test
    scheduler.serve()
except CaptchaPipelineError as error:
    sys.exit(str(error))
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(TINY, [f"root={tmp_path}"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Yields a function that starts a scheduler whose command works for some seconds."""
    started: list[subprocess.Popen[str]] = []

    def begin(seconds: float = 0.0, cron: str = "0 3 * * *") -> "subprocess.Popen[str]":
        worker = [sys.executable, "-c", WORKER, str(tmp_path / "worked"), str(seconds)]
        command = [sys.executable, "-c", SERVE, str(tmp_path), cron, str(TINY), *worker]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def note(tmp_path: Path, at: datetime) -> None:
    (tmp_path / "tiny").mkdir(exist_ok=True)
    (tmp_path / "tiny" / "schedule.json").write_text(json.dumps({"cron": "0 3 * * *", "at": at.isoformat()}))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stop(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGTERM) -> list[str]:
    """Stops a scheduler; returns its events that have not been read yet."""
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return events(output)


def events(output: str) -> list[str]:
    return [json.loads(line)["event"] for line in output.splitlines()]


def worked(tmp_path: Path) -> list[str]:
    path = tmp_path / "worked"
    return path.read_text().split() if path.exists() else []


def test_a_missed_time_is_made_up_for_once(tmp_path: Path, start: Start) -> None:
    note(tmp_path, datetime.now(timezone.utc) - timedelta(days=9))
    process = start()
    wait_for(lambda: "exit_code" in status(tmp_path / "tiny"))
    assert stop(process) == ["started", "run", "ended", "stopped"]
    assert worked(tmp_path) == ["begun", "done"]
    assert status(tmp_path / "tiny")["exit_code"] == 0


def test_a_restart_does_not_repeat_the_run(tmp_path: Path, start: Start) -> None:
    note(tmp_path, datetime.now(timezone.utc) - timedelta(days=9))
    first = start(60)
    wait_for(lambda: worked(tmp_path) == ["begun"])
    first.kill()
    first.communicate()
    second = start()
    assert second.stdout is not None
    assert json.loads(second.stdout.readline())["event"] == "started"
    assert stop(second) == ["stopped"]
    assert worked(tmp_path) == ["begun"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_at_work_is_stopped_and_waited_for(tmp_path: Path, start: Start, number: signal.Signals) -> None:
    note(tmp_path, datetime.now(timezone.utc) - timedelta(days=9))
    process = start(60)
    wait_for(lambda: worked(tmp_path) == ["begun"])
    assert stop(process, number) == ["started", "run", "ended", "stopped"]
    assert worked(tmp_path) == ["begun", "stopped"]
    assert status(tmp_path / "tiny")["exit_code"] == 130


def test_a_full_log_is_rotated_before_the_next_run(tmp_path: Path, start: Start) -> None:
    log = tmp_path / "tiny" / "retrain.log"
    note(tmp_path, datetime.now(timezone.utc) - timedelta(days=9))
    log.write_text("what runs have printed " * 500_000)
    process = start()
    wait_for(lambda: "exit_code" in status(tmp_path / "tiny"))
    stop(process)
    assert log.read_text() == ""
    assert log.with_name("retrain.log.1").read_text().endswith("have printed ")


def test_one_run_at_a_time(tmp_path: Path, start: Start) -> None:
    process = start(2.5, "* * * * *")
    wait_for(lambda: worked(tmp_path).count("done") == 2)
    told = stop(process)
    assert told.count("skipped") >= 2
    assert "run run" not in " ".join(event for event in told if event in ("run", "ended"))
    assert "begun begun" not in " ".join(worked(tmp_path))


def test_a_run_that_cannot_start_is_reported_and_the_next_run_is_tried(tmp_path: Path, start: Start) -> None:
    (tmp_path / "tiny" / "retrain.log").mkdir(parents=True)  # fails like a full disk
    process = start(0.0, "* * * * *")
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(5)]
    assert [line["event"] for line in lines] == ["started", "run", "failed", "run", "failed"]
    assert "retrain.log" in lines[2]["error"]


def test_a_second_scheduler_on_one_root_is_refused(tmp_path: Path, start: Start) -> None:
    first = start()
    assert first.stdout is not None
    assert json.loads(first.stdout.readline())["event"] == "started"
    second = start()
    _, error = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"Another scheduler (process {first.pid}) uses {tmp_path / 'tiny'}." in error


def test_a_month_of_nightly_runs(tmp_path: Path, config: Config) -> None:
    """The scheduler is asked every hour, as if it were restarted then, and is down for some days."""
    scheduler = Scheduler(config, "0 3 * * *", ["true"])
    begin = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)  # includes the change to summer time, if the time zone has one
    note(tmp_path, begin)
    runs = []
    for hour in range(1, 30 * 24 + 1):
        now = begin + timedelta(hours=hour)
        if not 200 < hour < 280 and scheduler.missed(now):
            runs.append(now)
            note(tmp_path, now)
    assert len(runs) == 30 - 3, "the three nights of its absence are made up for by one run"
    assert not scheduler.missed(runs[-1] + timedelta(minutes=1))


@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"),
    [
        # The hour from two to three does not exist on the first day, and occurs twice on the second.
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["03:30+02:00"]),
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["02:30+02:00", "02:30+01:00"]),
        ("Europe/Berlin", "0 3 * * *", "2026-03-29", ["03:00+02:00"]),
        ("Europe/Berlin", "0 3 * * *", "2026-10-25", ["03:00+01:00"]),
        # Here the first hour of the day does not exist, and the last hour occurs twice.
        ("Africa/Cairo", "0 0 * * *", "2026-04-24", []),
        ("Africa/Cairo", "0 1 * * *", "2026-04-24", ["01:00+03:00"]),
        ("Africa/Cairo", "30 23 * * *", "2026-10-29", ["23:30+03:00", "23:30+02:00"]),
    ],
)
def test_summer_time(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch, zone: str, cron: str, day: str, expected: list[str]
) -> None:
    """The scheduler is asked every minute, as if it were restarted then, on the days around a change of the clocks."""
    monkeypatch.setattr("apscheduler.triggers.cron.get_localzone", lambda: ZoneInfo(zone))
    scheduler = Scheduler(config, cron, ["true"])
    now = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo(zone)).astimezone(timezone.utc) - timedelta(days=2)
    note(tmp_path, now)
    runs: list[datetime] = []
    for _ in range(4 * 24 * 60):
        now += timedelta(minutes=1)
        if scheduler.missed(now):
            runs.append(now.astimezone(ZoneInfo(zone)))
            note(tmp_path, now)
    assert [f"{run:%H:%M}{run.isoformat()[-6:]}" for run in runs if f"{run:%Y-%m-%d}" == day] == expected
    others = [f"{run:%Y-%m-%d}" for run in runs if f"{run:%Y-%m-%d}" != day]
    assert len(set(others)) == len(others) == 3


def test_a_clock_that_is_set_forward_and_back(tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is set forward by a night, to a distant year, and back: each night has its run, and no run waits for that year."""
    begin = datetime(2026, 6, 1, 11).astimezone()
    offset = timedelta()
    days: list[str] = []

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return (datetime.now(timezone.utc) + offset).astimezone(tz)

    def set_clock(day: int) -> None:
        nonlocal offset
        offset = begin + timedelta(days=day) - datetime.now(timezone.utc)

    def set_and_wait(day: int) -> None:
        set_clock(day)
        wait_for(lambda: str(status(tmp_path / "tiny").get("at"))[:10] == f"{begin + timedelta(days=day):%Y-%m-%d}")
        days.append(status(tmp_path / "tiny")["at"][:10])

    def turn() -> None:
        try:
            started.wait()
            set_and_wait(1)
            set_and_wait(3650)
            set_clock(1)
            time.sleep(0.5)
            set_and_wait(2)
        finally:
            scheduler._stop.set()

    started = threading.Event()
    monkeypatch.setattr("pipeline.runs.scheduler.datetime", Clock)
    monkeypatch.setattr("apscheduler.schedulers.base.datetime", Clock)
    monkeypatch.setattr("pipeline.runs.scheduler._LOOK_AGAIN", 0.05)
    monkeypatch.setattr("pipeline.runs.scheduler._say", lambda event, **_: started.set())
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its handlers
    set_clock(0)
    scheduler = Scheduler(config, "0 3 * * *", ["true"])
    thread = threading.Thread(target=turn)
    thread.start()
    scheduler.serve()
    thread.join()
    assert days == [f"{begin + timedelta(days=day):%Y-%m-%d}" for day in (1, 3650, 2)]


def test_wrong_times_are_named(config: Config) -> None:
    with pytest.raises(CaptchaPipelineError, match=r"--cron '0 3 \* \*': .*Give five fields"):
        Scheduler(config, "0 3 * *", ["true"])
    with pytest.raises(CaptchaPipelineError, match=r"--cron '0 25 \* \* \*'"):
        Scheduler(config, "0 25 * * *", ["true"])
    with pytest.raises(CaptchaPipelineError, match="days of the week by name, such as mon-fri"):
        Scheduler(config, "0 3 * * 1-5", ["true"])
    with pytest.raises(CaptchaPipelineError, match="no such day exists"):
        Scheduler(config, "0 3 30 2 *", ["true"])
    Scheduler(config, "0 3 * * mon-fri", ["true"])


@pytest.mark.parametrize(
    ("cron", "refused"), [("0 3 1 * mon", True), ("0 3 1-7 * sun", True), ("0 3 */2 * mon", False), ("0 3 1 * *", False)]
)
def test_a_day_of_the_month_with_a_day_of_the_week_is_refused(config: Config, cron: str, refused: bool) -> None:
    """cron runs if either day matches, APScheduler only if both match; if one of them begins with *, cron requires both, too."""
    if not refused:
        Scheduler(config, cron, ["true"])
        return
    with pytest.raises(CaptchaPipelineError, match="a day of the month and a day of the week together"):
        Scheduler(config, cron, ["true"])


def test_the_systemd_unit_in_the_docs_starts_the_scheduler() -> None:
    page = (ROOT / "docs" / "how-to" / "retraining.md").read_text(encoding="utf-8")
    block = page[page.index("    [Unit]") :].split("\n\n**")[0]
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]  # systemd's keys are case-sensitive
    unit.read_string(textwrap.dedent(block))
    assert Path(unit["Service"]["WorkingDirectory"]).is_absolute()
    _, *arguments = shlex.split(unit["Service"]["ExecStart"])
    command, *options = arguments
    group = typer.main.get_command(app)
    context = group.commands[command].make_context(command, options)  # type: ignore[attr-defined]
    assert context.params["cron"] == "0 3 * * *"


def test_the_command_shows_the_last_time_and_starts_retrain(tmp_path: Path) -> None:
    options = ["--config", str(TINY), "--set", f"root={tmp_path}"]
    assert json.loads(call("schedule", *options)) == {}
    note(tmp_path, datetime(2026, 11, 27, 3, tzinfo=timezone.utc))
    assert json.loads(call("schedule", *options))["at"] == "2026-11-27T03:00:00+00:00"
    program, *arguments = retrain_command(TINY, [f"root={tmp_path}"])
    assert os.access(program, os.X_OK)
    assert arguments == ["retrain", "--config", str(TINY), f"--set=root={tmp_path}"]
