"""uvicorn with a small application, and with limits of requests and connections that tests reach at once."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.config.server import ServerConfig
from pipeline.server.limits import BodyLimits, limited_to
from pipeline.server.messages import RequestError, json_response
from pipeline.server.run import listen

KIB = 1 / 1024  # in MiB
SECONDS = 0.5  # for heads and bodies


async def echo(request: Request) -> Response:
    """Answers with what has arrived."""
    body = await request.body()
    return json_response({"method": request.method, "bytes": len(body), "headers": dict(request.headers)})


async def slow(request: Request) -> Response:
    """Answers when the test wants it."""
    body = await request.body()
    while not request.app.state.go:
        await asyncio.sleep(0.01)
    return json_response({"bytes": len(body)})


async def no_body(request: Request) -> Response:
    """Answers before the body arrives."""
    return json_response({"bytes": None})


async def large(request: Request) -> Response:
    """Answers with more than the buffers of a connection hold."""
    return json_response({"text": "x" * 50_000_000})


async def refused(request: Request, error: Any) -> Response:
    response: Response = error.response()
    return response


class Served:
    """A server on a free port."""

    def __init__(self, port: int, app: Starlette, protocols: set[Any]):
        self.port = port
        self.app = app
        self.protocols = protocols  # of the open connections

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            yield connection

    def send(self, *parts: bytes, pause: float = 0) -> tuple[int, dict[str, str], Any]:
        """Sends parts, and returns the status, the headers and the JSON of the first answer."""
        with self.connection() as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            return Answers(connection).next()

    def is_well(self) -> bool:
        """Returns whether a good request is answered."""
        return self.send(post(b"abc"))[0] == 200

    def wait_for_connections(self, number: int) -> None:
        """Waits until so many are open."""
        end = time.monotonic() + 20
        while len(self.protocols) != number:
            assert time.monotonic() < end, len(self.protocols)
            time.sleep(0.01)


class Answers:
    """The answers that arrive on a connection."""

    def __init__(self, connection: socket.socket):
        self._file = connection.makefile("rb")

    def next(self) -> tuple[int, dict[str, str], Any]:
        """Returns the status, the headers and the JSON of the next answer; the status 0 if the connection is closed."""
        try:
            first = self._file.readline()
        except ConnectionResetError:
            first = b""
        if not first:
            return 0, {}, None
        status = int(first.split()[1])
        headers = {}
        while line := self._file.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if status == 100:
            return status, headers, None
        return status, headers, json.loads(self._file.read(int(headers["content-length"])))

    def statuses(self) -> list[int]:
        """Returns the statuses of all answers until the connection is closed."""
        found = []
        while status := self.next()[0]:
            found.append(status)
        return found


def post(body: bytes, path: str = "/", *headers: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def chunked(path: str, *chunks: bytes) -> list[bytes]:
    """Returns the head and the chunks of a request, without its end."""
    return [
        f"POST {path} HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
        *(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks),
    ]


@contextlib.contextmanager
def serving(connections: int = 1000, **limits: Any) -> Iterator[Served]:
    settings = ServerConfig(port=0, body_seconds=SECONDS, max_body_mib=100 * KIB, max_bodies_mib=150 * KIB, **limits)
    routes = [
        Route("/", echo, methods=["GET", "POST"]),
        Route("/slow", slow, methods=["POST"]),
        Route("/no-body", no_body, methods=["POST"]),
        Route("/large", large),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(BodyLimits, settings=settings)], exception_handlers={RequestError: refused})
    app.state.go = False
    listener = listen(settings)
    protocol: Any = limited_to(settings.body_seconds, connections)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, ws="none", loop="uvloop", log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1], app, server.server_state.connections)
    finally:
        server.should_exit = True
        thread.join()
