"""Watches a server's readings for drift, and reports alarms to the log, the metrics and a webhook."""

import dataclasses
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import orjson
import urllib3

from components.data.pictures import PictureError
from pipeline.server.drift_monitor import Alarm, DriftMonitor, measure
from pipeline.server.observations import Observation

_LOG: Final = logging.getLogger(__name__)
_RETRIES: Final = urllib3.Retry(3, backoff_factor=1, allowed_methods=["POST"], status_forcelist=range(500, 600))
_SECONDS: Final = 5.0


class DriftWatch:
    """A monitor for the version that answers requests; a new version starts a new one."""

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
        self._number = 0
        self._monitor: DriftMonitor | None = None
        self._http = urllib3.PoolManager(timeout=_SECONDS, retries=_RETRIES)
        self._sender = ThreadPoolExecutor(1, "webhook")

    def watch(self, observation: Observation) -> None:
        """Adds a reading. See `pipeline.server.observations.Observations`."""
        version = observation.version
        if version.number != self._number:
            self._number = version.number
            self._monitor = DriftMonitor.of_version(version.pushed.path)
        spec = version.pushed.spec
        if self._monitor is None or spec is None:
            return
        try:
            found = measure(observation.picture, observation.text, observation.confidence, spec, self._monitor.rules)
        except PictureError:  # TensorFlow decodes some broken pictures that Pillow refuses
            return
        if alarm := self._monitor.observe(found):
            self._report(alarm)

    def close(self) -> None:
        """Waits until all alarms are sent."""
        self._sender.shutdown()

    def _report(self, alarm: Alarm) -> None:
        details = {"model": self._name, "version": self._number, **dataclasses.asdict(alarm)}
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
