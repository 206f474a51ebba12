"""Retrains by cron on this machine, one run at a time, and says what it does in JSON lines.

What a run needs of memory goes with its process: each is a `captcha-pipeline retrain`. The clock is APScheduler's.
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

    A time at which the command is still at work is left out, and so are all but one of those that passed while no scheduler ran. Of the
    last time there is a note on disk, so that a restart neither doubles it nor forgets it. That the clock has been set, or the machine
    asleep, is noticed within a minute.
    """

    def __init__(self, config: Config, cron: str, command: Sequence[str]):
        """
        Args:
          config: says where the note, the lock and the log of the runs are.
          cron: minute, hour, day of the month, month, day of the week, in this machine's time zone.
          command: what to start.

        Raises:
          CaptchaPipelineError: `cron` is none.
        """
        fields = cron.split()
        if len(fields) == 5 and any(digit in fields[4] for digit in "01234567"):
            # To cron 0 is Sunday, to APScheduler it is Monday.
            raise CaptchaPipelineError(f"--cron {cron!r}: give the days of the week by name, such as mon-fri.")
        if len(fields) == 5 and not any(field.startswith("*") for field in (fields[2], fields[4])):
            # To cron they mean either day, to APScheduler both at once.
            raise CaptchaPipelineError(
                f"--cron {cron!r} gives a day of the month and a day of the week together. Give one of them, and * for the other."
            )
        try:
            self._trigger = CronTrigger.from_crontab(cron)
        except ValueError as error:
            raise CaptchaPipelineError(f"--cron {cron!r}: {error}. Five fields, such as '0 3 * * *' for three every night.") from None
        if self._trigger.get_next_fire_time(None, datetime.now(timezone.utc)) is None:
            raise CaptchaPipelineError(f"--cron {cron!r}: there is no such day.")
        self._cron = cron
        self._command = list(command)
        self._folder = Path(config.root) / config.name
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Works until SIGTERM or SIGINT. A run that is at work is then told to stop, and waited for.

        Raises:
          CaptchaPipelineError: another scheduler works on this folder, or it cannot be written.
        """
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # what it would tell of is said below
        lock, busy = self._folder / "schedule.lock", f"Another scheduler (process {{}}) works on {self._folder}."
        with writing_in(self._folder), locked(lock, busy):
            scheduler = BackgroundScheduler(timezone=self._trigger.timezone)
            now = datetime.now(timezone.utc)
            first = now if self.missed(now) else self._trigger.get_next_fire_time(None, now)
            job = scheduler.add_job(self._tick, self._trigger, coalesce=True, max_instances=1, misfire_grace_time=None, next_run_time=first)
            scheduler.add_listener(lambda _: _say("skipped", reason="the run before is still at work"), EVENT_JOB_MAX_INSTANCES)
            scheduler.add_listener(lambda event: _say("failed", error=str(event.exception)), EVENT_JOB_ERROR)
            for number in _SIGNALS:
                signal.signal(number, lambda *_: self._stop.set())
            _say("started", cron=self._cron, next=first.isoformat())
            scheduler.start()
            # APScheduler waits by a clock that stands still while the machine sleeps, for a time that it worked out by one that can be set.
            while not self._stop.wait(_LOOK_AGAIN):
                due = self._trigger.get_next_fire_time(None, datetime.now(timezone.utc))
                if due < job.next_run_time:
                    job.modify(next_run_time=due)
                scheduler.wakeup()
            self._interrupt()
            scheduler.shutdown()
            _say("stopped")

    def missed(self, now: datetime) -> bool:
        """Whether a time of the schedule lies between the last one on record and `now`."""
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
            # In a group of its own: Ctrl-C reaches the run through this process, once.
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            if self._stop.is_set():  # since it was asked above
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
    """Returns what is on record of the last time: `cron`, `at` (ISO 8601, UTC), and once it has ended `exit_code` and `seconds`."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads((folder / "schedule.json").read_text(encoding="utf-8")))
    return {}


def retrain_command(config: Path, overrides: Sequence[str], beam: str | None = None) -> list[str]:
    """Returns the command line that retrains with a configuration, in this very environment."""
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
