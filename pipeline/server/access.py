"""Counts and logs each request: an ASGI middleware. The log has no pictures and no readings."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Final

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG: Final = logging.getLogger(__name__)
_NO_ENDPOINT: Final = "unknown"
CLOSED: Final = 499  # nginx's status for a client that went away before the answer
_LONGEST_PATH: Final = 200  # in the log, which strangers must not fill


class Access:
    """Calls `count` with the endpoint, the status and the seconds of each request, and logs a line if `log`."""

    def __init__(self, app: ASGIApp, count: Callable[[str, int, float], None], log: bool):
        self._app = app
        self._count = count
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, sent = time.perf_counter(), CLOSED, 0

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500  # which the outermost middleware answers
            raise
        finally:
            seconds = time.perf_counter() - start
            endpoint = getattr(scope.get("endpoint"), "__name__", _NO_ENDPOINT)
            self._count(endpoint, status, seconds)
            if self._log:
                client = scope.get("client")
                _LOG.info(
                    "request",
                    extra={
                        "details": {
                            "client": client[0] if client else "",
                            "method": scope["method"],
                            "path": scope["path"][:_LONGEST_PATH],
                            "status": status,
                            "ms": round(1000 * seconds, 2),
                            "bytes": sent,
                        }
                    },
                )


class JsonLines(logging.Formatter):
    """Formats log records as one line of JSON each: time, level, message, and the keys of `details`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line | getattr(record, "details", {}), default=str).decode("utf-8", "replace")


def log_as_json() -> None:
    """Sends the log of this process to standard output, as JSON lines. Records of libraries below WARNING are dropped."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("pipeline.server").setLevel(logging.INFO)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that its loader for servers is deprecated
