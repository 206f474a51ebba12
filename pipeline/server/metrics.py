"""Metrics for Prometheus."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.requests import Request
from starlette.responses import Response

from components.base.features import CONFIDENCE, VALID
from pipeline.server.run import METRICS_VARIABLE
from pipeline.server.versions import Version, Versions

_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONFIDENCES: Final = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1)


class Metrics:
    """The metrics of one process. With several workers, `/metrics` of each returns the sum over all."""

    def __init__(self) -> None:
        disable_created_metrics()  # they double the page, and no one asks when a counter was made
        own = self._registry = CollectorRegistry()
        self._requests = Counter("captcha_requests_total", "Answered requests.", ["endpoint", "status"], registry=own)
        self._latency = Histogram(
            "captcha_request_seconds", "From a request's head to its answer.", ["endpoint"], buckets=_SECONDS, registry=own
        )
        self._pictures = Counter(
            "captcha_pictures_total", "Pictures, by whether they could be decoded.", ["valid", "version"], registry=own
        )
        self._confidence = Histogram("captcha_confidence", "Confidence of the readings.", buckets=_CONFIDENCES, registry=own)
        self._batches = Histogram("captcha_batch_size", "Pictures that were read together.", buckets=_SIZES, registry=own)
        self._model = Histogram("captcha_batch_seconds", "Time of the model for a batch.", buckets=_SECONDS, registry=own)
        self._queue = Gauge("captcha_queue_pictures", "Waiting pictures.", multiprocess_mode="livesum", registry=own)
        self._version = Gauge("captcha_model_version", "The version that answers requests.", multiprocess_mode="livemin", registry=own)
        self._refused = Gauge("captcha_refused_versions", "Versions that could not be loaded.", multiprocess_mode="livemax", registry=own)
        self._unobserved = Counter("captcha_unobserved_pictures_total", "Pictures that the log and the monitor missed.", registry=own)
        self._drift = Counter("captcha_drift_alarms_total", "Alarms of the drift monitor.", ["feature"], registry=own)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._latency.labels(endpoint).observe(seconds)

    def queued(self, waiting: int) -> None:
        """Notes the number of waiting pictures."""
        self._queue.set(waiting)

    def batch(self, size: int, seconds: float) -> None:
        """Counts a batch that the model has read."""
        self._batches.observe(size)
        self._model.observe(seconds)

    def observe(self, version: Version, signature: str, values: Sequence[bytes], answer: Mapping[str, np.ndarray]) -> None:
        """Counts the pictures of a request, and their confidence. See `pipeline.server.reading.Observer`."""
        if VALID not in answer:
            return
        valid = answer[VALID]
        count = int(valid.sum())
        for name, number in (("true", count), ("false", len(valid) - count)):
            if number:
                self._pictures.labels(name, str(version.number)).inc(number)
        for confidence in answer[CONFIDENCE][valid]:
            self._confidence.observe(float(confidence))

    def versions(self, versions: Versions) -> None:
        """Notes the current version and the number of refused versions."""
        self._version.set(versions.current.number if versions.current else 0)
        self._refused.set(sum(bool(status.problem) for status in versions.statuses.values()))

    def unobserved(self, count: int) -> None:
        """Counts pictures that were not observed."""
        self._unobserved.inc(count)

    def alarm(self, feature: str) -> None:
        """Counts an alarm of the drift monitor."""
        self._drift.labels(feature).inc()

    def page(self) -> bytes:
        """Returns the metrics in Prometheus' text format, of all workers."""
        registry = self._registry
        if METRICS_VARIABLE in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)

    def close(self) -> None:
        """Removes the state of this process from the metrics of all workers."""
        if METRICS_VARIABLE in os.environ:
            mark_process_dead(os.getpid())


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    return Response(request.app.state.metrics.page(), media_type=CONTENT_TYPE_LATEST)
