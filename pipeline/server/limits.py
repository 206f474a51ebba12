"""Limits of requests: the size of a body, of all bodies together, and the time to send them."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipeline.config.server import ServerConfig
from pipeline.server.messages import RequestError

_MIB: Final = 2**20
_BUSY_SECONDS: Final = 1.0
HEAD_BYTES: Final = 64 * 1024  # the limit of uvicorn's other parser


class BodyLimits:
    """An ASGI middleware that refuses bodies over the limits while they arrive. Memory for bodies is bounded by `max_bodies_mib`.

    An endpoint that reads the body gets a RequestError: 413 for a body that is too long, 408 for one that comes too slowly, 503 if the open
    requests together have too many bytes, 415 for a compressed body, which could expand to any size.
    """

    def __init__(self, app: ASGIApp, settings: ServerConfig):
        self._app = app
        self._limit = int(settings.max_body_mib * _MIB)
        self._limit_of_all = int(settings.max_bodies_mib * _MIB)
        self._seconds = settings.body_seconds
        self._open = 0  # bytes of all open requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application with a `receive` that has limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"")
        received = 0
        deadline = asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal received
            if headers.get(b"content-encoding", b"identity").lower() != b"identity":
                raise RequestError(415, "Compressed bodies are not supported.")
            if declared.isdigit() and (len(declared) > 18 or int(declared) > self._limit):
                raise RequestError(413, f"The body is longer than {self._limit:,} bytes.")
            try:
                message = await asyncio.wait_for(receive(), max(deadline - asyncio.get_running_loop().time(), 0))
            except asyncio.TimeoutError:
                raise RequestError(408, f"The body did not arrive within {self._seconds:g} seconds.") from None
            size = len(message.get("body", b""))
            received += size
            self._open += size
            if received > self._limit:
                raise RequestError(413, f"The body is longer than {self._limit:,} bytes.")
            if self._open > self._limit_of_all:
                raise RequestError(503, "The server is busy: the open requests have too many bytes.", _BUSY_SECONDS)
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._open -= received


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with limits for the head of a request, which uvicorn does not have with this parser.

    A connection is closed if a request's line and headers have more than HEAD_BYTES or do not arrive within `head_seconds`, also if the
    client sends nothing. Use `limited_to` to get a class with a time.
    """

    head_seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for the first request."""
        super().connection_made(transport)
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(self.head_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses the data, and closes the connection if they do not complete a head of HEAD_BYTES."""
        if not self._in_head and (self.cycle is None or self.cycle.response_complete):  # between two requests
            self._in_head, self._head_bytes = True, 0
            self._timer = self.loop.call_later(self.head_seconds, self.transport.close)
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """Stops the time: the body has its own, see BodyLimits."""
        self._in_head = False
        self._timer.cancel()
        super().on_headers_complete()


def limited_to(head_seconds: float) -> type[BoundedProtocol]:
    """Returns the protocol with a time for the head of a request, in seconds."""
    return type("LimitedProtocol", (BoundedProtocol,), {"head_seconds": head_seconds})
