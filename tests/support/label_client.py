"""A client of the labelling page's application, in this process."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
from starlette.applications import Starlette

ADDRESS = "http://127.0.0.1:8502"
_SECONDS = 120


class Client:
    """Sends requests to the application in the thread that has opened the session, which SQLite asks for."""

    def __init__(self, app: Starlette):
        self._loop = asyncio.new_event_loop()
        self._running = app.router.lifespan_context(app)
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=ADDRESS)

    def __enter__(self) -> "Client":
        self._loop.run_until_complete(self._running.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(self._running.__aexit__(None, None, None))
        self._loop.close()

    def post(self, path: str, **content: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.post(path, **content))

    def get(self, path: str, **content: Any) -> httpx.Response:
        return self._loop.run_until_complete(self._client.get(path, **content))

    def wait(self, until: Callable[[], bool], seconds: float = _SECONDS) -> None:
        """Lets the application work in the background until a condition holds."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end
            self._loop.run_until_complete(asyncio.sleep(0.05))
