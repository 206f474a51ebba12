"""A load generator for HTTP/1.1 on persistent connections: cheap, because it shares the machine with the server."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "


class Connection(asyncio.Protocol):
    """One connection. It sends a request only after the answer to the one before."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transports have no common class with asyncio's

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Sends a whole request; returns the status and the body of the answer. Raises ConnectionError if the server closes it."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._received += data
        head, found, body = self._received.partition(_END_OF_HEAD)
        if not found:
            return
        length = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0])
        if len(body) >= length and self._answer:
            self._received = body[length:]
            self._answer.set_result((int(head[9:12]), body[:length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))


@dataclass(frozen=True)
class Load:
    """What a load did: the seconds of each answered request, the seconds of the whole load, and the requests without status 200."""

    latencies: list[float]
    seconds: float
    failures: int

    @property
    def rate(self) -> float:
        """Answered requests per second."""
        return len(self.latencies) / self.seconds


async def connect(host: str, port: int) -> Connection:
    """Returns an open connection."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


async def closed_loop(
    address: tuple[str, int],
    requests: Sequence[bytes],
    clients: int,
    goes_on: Callable[[float], bool],
    check: Callable[[int, bytes], bool] = lambda number, body: True,
) -> Load:
    """Clients that send their next request as soon as they have an answer.

    Args:
      address: of the server.
      requests: sent in turn.
      clients: number of connections.
      goes_on: called before each request with the seconds since the start; false ends the load.
      check: called with the number of the request in `requests` and the body; false counts as a failure.
    """
    latencies: list[float] = []
    failures = 0
    start = time.perf_counter()

    async def client(number: int) -> None:
        nonlocal failures
        connection = await connect(*address)
        while goes_on((sent := time.perf_counter()) - start):
            status, body = await connection.send(requests[number % len(requests)])
            latencies.append(time.perf_counter() - sent)
            failures += status != 200 or not check(number % len(requests), body)
            number += clients
        connection.transport.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(latencies, time.perf_counter() - start, failures)


async def open_loop(address: tuple[str, int], requests: Sequence[bytes], rate: float, clients: int, seconds: float) -> Load:
    """Requests at a steady rate, whatever the answers take. A request that finds no free connection waits, and its latency counts that.

    Args:
      address: of the server.
      requests: sent in turn.
      rate: requests per second.
      clients: number of connections.
      seconds: how long.
    """
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for connection in await asyncio.gather(*(connect(*address) for _ in range(clients))):
        free.put_nowait(connection)
    latencies: list[float] = []
    failures = 0

    async def one(number: int, due: float) -> None:
        nonlocal failures
        connection = await free.get()
        status, _ = await connection.send(requests[number % len(requests)])
        latencies.append(time.perf_counter() - due)
        failures += status != 200
        free.put_nowait(connection)

    start = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    while not free.empty():
        free.get_nowait().transport.close()
    return Load(latencies, seconds, failures)
