"""Watches a server's readings for drift, and reports alarms to the log, the metrics and a webhook."""

import contextlib
import dataclasses
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson
import urllib3

from components.data.pictures import PictureError
from pipeline.server.drift_monitor import Alarm, DriftMonitor, measure
from pipeline.server.observations import Observation
from pipeline.server.versions import Version

_LOG: Final = logging.getLogger(__name__)
_RETRIES: Final = urllib3.Retry(2, backoff_factor=1, allowed_methods=["POST"], status_forcelist=range(500, 600))
_SECONDS: Final = 3.0
# Of one core. To watch all pictures would take a fifth of the CPU time of a busy server.
_SHARE: Final = 0.02
_SAVED: Final = 0.2  # seconds of CPU time; enough for hundreds of small pictures after a quiet time
_VERSIONS: Final = 8  # that are watched at the same time: the current one, and those with a label


class _Budget:
    """CPU time that grows by a share of the time that passes: a token bucket."""

    def __init__(self) -> None:
        self._left = _SAVED
        self._at = time.monotonic()

    def is_left(self) -> bool:
        now = time.monotonic()
        self._left = min(_SAVED, self._left + _SHARE * (now - self._at))
        self._at = now
        return self._left > 0

    @contextlib.contextmanager
    def spend(self) -> Iterator[None]:
        """Takes the CPU time of this thread during the block from the budget."""
        start = time.thread_time()
        try:
            yield
        finally:
            self._left -= time.thread_time() - start


class DriftWatch:
    """A monitor for each version that reads pictures, among the last few. It takes no more CPU time than its budget: see `_SHARE`."""

    def __init__(self, name: str, webhook: str | None, count: Callable[[str], None]):
        """Observes nothing yet.

        Args:
          name: of the model, for the webhook.
          webhook: a URL that gets a POST with a JSON object for each alarm: model, version, message, and the attributes of
            `drift_monitor.Alarm`; None for no webhook.
          count: called with the feature of each alarm.
        """
        self._name = name
        self._webhook = webhook
        self._count = count
        self._monitors: OrderedDict[int, DriftMonitor | None] = OrderedDict()
        self._http = urllib3.PoolManager(timeout=_SECONDS, retries=_RETRIES)
        self._sender = ThreadPoolExecutor(1, "webhook")
        self._budget = _Budget()

    def watch(self, observation: Observation) -> None:
        """Adds a reading. See `pipeline.server.observations.Observations`."""
        if not self._budget.is_left():
            return
        with self._budget.spend():
            self._watch(observation)

    def _watch(self, observation: Observation) -> None:
        version = observation.version
        monitor, spec = self._monitor(version), version.pushed.spec
        if monitor is None or spec is None:
            return
        try:
            found = measure(observation.picture, observation.text, observation.confidence, spec, monitor.rules)
        except PictureError:  # TensorFlow decodes some broken pictures that Pillow refuses
            return
        if alarm := monitor.observe(found):
            self._report(version.number, alarm)

    def close(self) -> None:
        """Waits until the alarm that is being sent is sent. Those that wait for it are in the log only."""
        self._sender.shutdown(cancel_futures=True)

    def _monitor(self, version: Version) -> DriftMonitor | None:
        """Returns the monitor of a version; None if the version has no profile."""
        if version.number not in self._monitors:
            self._monitors[version.number] = DriftMonitor.of_version(version.pushed.path)
            if len(self._monitors) > _VERSIONS:
                self._monitors.popitem(last=False)
        self._monitors.move_to_end(version.number)
        return self._monitors[version.number]

    def _report(self, number: int, alarm: Alarm) -> None:
        details = {"model": self._name, "version": number, **dataclasses.asdict(alarm)}
        _LOG.warning("%s", alarm, extra={"details": details})
        self._count(alarm.feature)
        if self._webhook:
            self._sender.submit(self._post, self._webhook, {**details, "message": str(alarm)})

    def _post(self, url: str, content: dict[str, Any]) -> None:
        try:
            answer = self._http.request("POST", url, body=orjson.dumps(content), headers={"Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            _LOG.error("The alarm could not be sent to server.drift.webhook: %s", error)
            return
        if answer.status >= 400:
            _LOG.error("The alarm was refused by server.drift.webhook: status %d", answer.status)
