"""Limits of requests: the size of a body, of all bodies together, and the time to send them."""

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from pipeline.config.server import ServerConfig
from pipeline.server.messages import RequestError

_BUSY_SECONDS: Final = 1.0
_CROWDED: Final = "crowded"  # in the state of a request's scope: more connections are open than the server accepts
_ALWAYS: Final = ("/healthz", "/metrics")
HEAD_BYTES: Final = 64 * 1024  # the limit of uvicorn's other parser
PIPELINED: Final = 16


class BodyLimits:
    """An ASGI middleware that refuses bodies over the limits while they arrive. Memory for bodies is bounded by `max_bodies_mib`.

    An endpoint that reads the body gets a RequestError: 413 for a body that is too long, 408 for one that comes too slowly, 503 if the open
    requests together have too many bytes, 415 for a compressed body, which could expand to any size.
    """

    def __init__(self, app: ASGIApp, settings: ServerConfig):
        self._app = app
        self._limit = settings.max_body_bytes
        self._limit_of_all = settings.max_bodies_bytes
        self._seconds = settings.body_seconds
        self._open = 0  # bytes of all open requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application with a `receive` that has limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Kubernetes would restart a server that does not say that it is alive.
        if scope.get("state", {}).get(_CROWDED) and scope["path"] not in _ALWAYS:
            busy = RequestError(503, "The server is busy: too many connections are open.", _BUSY_SECONDS).response()
            busy.headers["Connection"] = "close"
            await busy(scope, receive, send)
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
    """uvicorn's HTTP protocol, with limits that uvicorn does not have with this parser. See `limited_to`.

    - The line and the headers of a request have at most HEAD_BYTES, and so has what a body has beside its bytes: the sizes of chunks,
      and trailers, which are dropped. A body of small chunks may have as many bytes of sizes as bytes of data.
    - They arrive within the configured time, or the connection is closed; also if the client sends nothing, or goes on with the body of a
      request that is already answered. Such a body is read and dropped until then, because a client that cannot send sees no answer.
    - At most PIPELINED requests wait on a connection while an earlier one is answered.
    - A wish to upgrade the connection is ignored, as RFC 9110, 7.8, allows. The parser would drop the body of such a request.

    A head that breaks a rule does not cost earlier requests on the connection their answers.
    """

    def __init__(self, *arguments: Any, seconds: float, most: int, **others: Any):
        """Makes uvicorn's protocol with a time to send a head, and the largest number of open connections."""
        super().__init__(*arguments, **others)
        self._seconds, self._most = seconds, most

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time for the first request."""
        super().connection_made(transport)
        self._in_head, self._surplus, self._refused = True, 0, False
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the time."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses the data, and refuses them if they break a rule."""
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._in_head or self.cycle.response_complete:
            self._start_timer()
        self._surplus += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(400, str(error.__context__) if isinstance(error.__context__, _Refusal) else f"Invalid HTTP request: {error}")
        else:
            if self._surplus > HEAD_BYTES:
                self._refuse(400, f"The head of the request, or its trailer, is longer than {HEAD_BYTES:,} bytes.")

    def on_message_begin(self) -> None:
        """Starts the time, also if the request begins in the middle of the data."""
        super().on_message_begin()
        self._start_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, and drops a trailer."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stops the time: the body has its own, see BodyLimits."""
        if self.parser.should_upgrade():
            return
        if len(self.pipeline) >= PIPELINED:
            raise _Refusal(f"More than {PIPELINED} requests wait for the answer to an earlier one.")
        self._in_head = False
        self._stop_timer()
        self.scope["state"][_CROWDED] = len(self.connections) > self._most or len(self.tasks) >= self._most
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body."""
        self._surplus -= len(body) if self.cycle.response_complete else 2 * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Waits for the next request."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._in_head, self._surplus = True, 0
        self._stop_timer()

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parses the head of a request again, without its wish to upgrade, and then the rest of the data."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refuse(400, "This server is no proxy.")
            return
        kept = [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"".join([method, b" ", self.url, b" HTTP/", version, b"\r\n", *kept, b"\r\n"])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._surplus = 0
        self.data_received(head + rest)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._in_head and self._surplus:
            self._refuse(408, f"The head of the request did not arrive within {self._seconds:g} seconds.")
        else:
            self._close()

    def _refuse(self, status: int, message: str) -> None:
        """Closes the connection, after an answer if one is due: to this request, or else to those that came before it."""
        if self._in_head and self.cycle is not None and not self.cycle.response_complete:
            self._close()
            return
        if (self._in_head or not self.cycle.response_started) and not self.transport.is_closing():
            response = RequestError(status, message).response()
            headers = [b"%s: %s\r\n" % header for header in (*response.raw_headers, (b"connection", b"close"))]
            self.transport.write(b"".join([STATUS_LINE[status], *headers, b"\r\n", bytes(response.body)]))
        self._refused = True
        self.transport.close()

    def _close(self) -> None:
        """Closes the connection once all complete requests are answered."""
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self.cycle.keep_alive = False


class _Refusal(Exception):
    """A request breaks a rule. Raised in a callback of the parser."""


def limited_to(seconds: float, connections: int) -> Callable[..., BoundedProtocol]:
    """Returns the protocol with its limits, in a form that can be handed to other processes."""
    return functools.partial(BoundedProtocol, seconds=seconds, most=connections)
