"""The web application: joins the interfaces, the model and its observers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.config.config import Config
from pipeline.server import open_inference, openapi, tensorflow_api
from pipeline.server.access import CLOSED, Access
from pipeline.server.batching import Batcher
from pipeline.server.drift_watch import DriftWatch
from pipeline.server.limits import BodyLimits
from pipeline.server.messages import RequestError, json_response
from pipeline.server.metrics import Metrics, metrics
from pipeline.server.observations import Observations, Watcher
from pipeline.server.prediction_log import PredictionLog
from pipeline.server.reading import Server, server_of
from pipeline.server.versions import Versions
from pipeline.server.web_page import WebPage

_LOG: Final = logging.getLogger(__name__)


async def health(request: Request) -> Response:
    """GET /healthz: the process answers."""
    return json_response({"status": "ok"})


async def readiness(request: Request) -> Response:
    """GET /readyz: status 503 until a version is loaded."""
    versions = server_of(request).versions
    if versions.current is None:
        return json_response({"status": "no version is loaded", "problems": _problems(versions)}, 503)
    return json_response({"status": "ready", "version": versions.current.number, "problems": _problems(versions)})


def _problems(versions: Versions) -> list[str]:
    refused = [f"version {number}: {status.problem}" for number, status in sorted(versions.statuses.items()) if status.problem]
    return [*refused, *([versions.folder_problem] if versions.folder_problem else [])]


def create_app(config: Config) -> Starlette:
    """Returns the application that serves the newest pushed version of a pipeline. It loads the version when it starts."""
    settings = config.server
    measured = Metrics()
    threads = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "loader")
    batcher = Batcher(settings.batch_size, settings.batch_wait_ms / 1000, settings.queue, threads[0], measured.batch, measured.queued)
    versions = Versions(Path(config.serving_dir), settings.labels, threads[1], measured.versions)
    observations = Observations(_watchers(config, measured), measured.unobserved)
    server = Server(config.served_name, versions, batcher, [measured, observations])

    @contextlib.asynccontextmanager
    async def running(app: Starlette) -> AsyncIterator[None]:
        await versions.refresh()
        if versions.current is None:
            _LOG.warning("No version of %s can be served yet; waiting for a push to %s", config.name, config.serving_dir)
        tasks = [asyncio.create_task(batcher.run()), asyncio.create_task(versions.follow(settings.poll_seconds))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for thread in threads:
                thread.shutdown()
            observations.close()
            versions.close()
            measured.close()

    app = Starlette(
        routes=[
            Route("/healthz", health),
            Route("/readyz", readiness),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi.description),
            *tensorflow_api.ROUTES,
            *open_inference.ROUTES,
            *WebPage(config).routes,
        ],
        middleware=[Middleware(Access, count=measured.request, log=settings.access_log), Middleware(BodyLimits, settings=settings)],
        exception_handlers={RequestError: _refused, HTTPException: _not_found, ClientDisconnect: _gone, Exception: _failed},
        lifespan=running,
    )
    app.router.redirect_slashes = False
    app.state.server = server
    app.state.metrics = measured
    app.state.description = openapi.describe(config.served_name, settings.labels)
    return app


def _watchers(config: Config, measured: Metrics) -> Iterator[Watcher]:
    if config.server.drift.watch:
        yield DriftWatch(config.served_name, config.server.drift.webhook, measured.alarm)
    if config.server.log.folder:
        yield PredictionLog(config.server.log, Path(config.server.log.folder))


async def _refused(request: Request, error: Any) -> Response:
    return error.response()


async def _not_found(request: Request, error: Any) -> Response:
    if request.url.path.startswith("/v1/"):
        return tensorflow_api.malformed(request).response()
    return json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=CLOSED)  # nobody reads it


async def _failed(request: Request, error: Any) -> Response:
    # uvicorn logs the error with its traceback.
    return json_response({"error": "The server failed; its log says why."}, 500)
