"""Retrains on a cron schedule on this machine, one run at a time, and logs its actions as JSON lines.

Each run is a separate process, `captcha-pipeline retrain`, so its memory is freed when it ends. APScheduler keeps the time.
"""

import contextlib
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from components.base.disk import writing_in
from components.base.errors import CaptchaPipelineError
from components.base.files import locked, write_whole
from pipeline.config.config import Config
from pipeline.logs import rotate

_LOOK_AGAIN: Final = 60.0  # seconds
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Scheduler:
    """Starts a command at the times of a crontab line, until it is told to stop.

    A scheduled time is skipped if the command still runs. If several times passed while no scheduler ran, the command starts once. A
    record of the last start is on disk, so that a restart neither repeats nor forgets it. The scheduler notices within a minute that the
    clock was set or that the machine slept.
    """

    def __init__(self, config: Config, cron: str, command: Sequence[str]):
        """
        Args:
          config: gives the folder of the record, the lock and the log of the runs.
          cron: minute, hour, day of the month, month, day of the week, in this machine's time zone.
          command: the command to start.

        Raises:
          CaptchaPipelineError: `cron` is invalid.
        """
        fields = cron.split()
        if len(fields) == 5 and any(digit in fields[4] for digit in "01234567"):
            # Day 0 is Sunday for cron, but Monday for APScheduler.
            raise CaptchaPipelineError(f"--cron {cron!r}: give the days of the week by name, such as mon-fri.")
        if len(fields) == 5 and not any(field.startswith("*") for field in (fields[2], fields[4])):
            # For cron either day must match, for APScheduler both.
            raise CaptchaPipelineError(
                f"--cron {cron!r} gives a day of the month and a day of the week together. Give one of them, and * for the other."
            )
        try:
            self._trigger = CronTrigger.from_crontab(cron)
        except ValueError as error:
            raise CaptchaPipelineError(f"--cron {cron!r}: {error}. Give five fields, such as '0 3 * * *' for 3:00 every night.") from None
        if self._trigger.get_next_fire_time(None, datetime.now(timezone.utc)) is None:
            raise CaptchaPipelineError(f"--cron {cron!r}: no such day exists.")
        self._cron = cron
        self._command = list(command)
        self._folder = Path(config.root) / config.name
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Runs the schedule until SIGTERM or SIGINT. It then stops a run that is in progress, and waits for its end.

        Raises:
          CaptchaPipelineError: another scheduler uses this folder, or the folder cannot be written.
        """
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # the listeners below report the same events
        lock, busy = self._folder / "schedule.lock", f"Another scheduler (process {{}}) uses {self._folder}. Stop it first."
        with writing_in(self._folder), locked(lock, busy):
            scheduler = BackgroundScheduler(timezone=self._trigger.timezone)
            now = datetime.now(timezone.utc)
            first = now if self.missed(now) else self._trigger.get_next_fire_time(None, now)
            job = scheduler.add_job(self._tick, self._trigger, coalesce=True, max_instances=1, misfire_grace_time=None, next_run_time=first)
            scheduler.add_listener(lambda _: _say("skipped", reason="the previous run is still running"), EVENT_JOB_MAX_INSTANCES)
            scheduler.add_listener(lambda event: _say("failed", error=str(event.exception)), EVENT_JOB_ERROR)
            for number in _SIGNALS:
                signal.signal(number, lambda *_: self._stop.set())
            _say("started", cron=self._cron, next=first.isoformat())
            scheduler.start()
            # APScheduler computes its wait from a clock that can be set, and measures it with a clock that stops while the machine sleeps.
            while not self._stop.wait(_LOOK_AGAIN):
                due = self._trigger.get_next_fire_time(None, datetime.now(timezone.utc))
                if due < job.next_run_time:
                    job.modify(next_run_time=due)
                scheduler.wakeup()
            self._interrupt()
            scheduler.shutdown()
            _say("stopped")

    def missed(self, now: datetime) -> bool:
        """Whether a scheduled time has passed between the last recorded start and `now`."""
        last = status(self._folder).get("at")
        if last is None:
            return False
        begun = datetime.fromisoformat(last).astimezone(self._trigger.timezone)
        following = self._trigger.get_next_fire_time(begun, begun)
        return following is not None and following <= now

    def _tick(self) -> None:
        if self._stop.is_set():
            return
        begun = datetime.now(timezone.utc)
        note: dict[str, Any] = {"cron": self._cron, "at": begun.isoformat()}
        write_whole(self._folder / "schedule.json", json.dumps(note))
        _say("run", command=self._command)
        log_path = self._folder / "retrain.log"
        rotate(log_path)
        with log_path.open("ab") as log:
            # In its own process group, so that Ctrl-C reaches the run once, through this process.
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            if self._stop.is_set():  # the signal may have come after the check above
                self._interrupt()
            code = self._process.wait()
            self._process = None
        seconds = round((datetime.now(timezone.utc) - begun).total_seconds(), 1)
        write_whole(self._folder / "schedule.json", json.dumps(note | {"exit_code": code, "seconds": seconds}))
        _say("ended", exit_code=code, seconds=seconds, log=str(log_path))

    def _interrupt(self) -> None:
        if process := self._process:
            process.send_signal(signal.SIGINT)


def status(folder: Path) -> dict[str, Any]:
    """Returns the record of the last start: `cron`, `at` (ISO 8601, UTC), and after its end `exit_code` and `seconds`; {} if none."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / "schedule.json").read_text(encoding="utf-8")))
    return {}


def retrain_command(config: Path, overrides: Sequence[str], beam: str | None = None) -> list[str]:
    """Returns the command line that retrains with a configuration, in this Python environment."""
    program = Path(sys.executable).with_name("captcha-pipeline")
    return [
        str(program),
        "retrain",
        "--config",
        str(config),
        *(f"--set={item}" for item in overrides),
        *([f"--beam={beam}"] if beam else []),
    ]


def _say(event: str, **details: Any) -> None:
    print(json.dumps({"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "event": event, **details}), flush=True)
