"""Sends ten thousand malformed requests to a server, and good ones in between.

    uv run python -m benchmarks.malformed [--seed 1]

Expected, and asserted: the server answers each good request right, never answers with a 5xx status other than 503, and does not end. Its
memory is bounded. Three minutes on 2 cores with other load, and some more if the small pipeline run that makes the model is still missing.
"""

import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from benchmarks import served
from benchmarks.malformed_requests import Requests, Sent
from benchmarks.results import record
from benchmarks.server_process import Server, running
from pipeline.logs import silence

COUNT: Final = 10_000
_AT_A_TIME: Final = 300
_SECONDS: Final = 60  # to wait for an answer
_MOST_MIB: Final = 1024  # of memory that the requests may add
_CLOSED: Final = "closed"


async def send(server: Server, sent: Sent) -> list[str]:
    """Returns the statuses of the answers to a request; the last is "closed" if the server closed the connection."""
    reader, writer = await asyncio.open_connection(*server.address)
    try:
        for part in sent.parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(sent.pause)
        if sent.closes:
            return ["not read"]
        statuses = []
        for _ in range(sent.answers):
            statuses.append((await asyncio.wait_for(answer(reader), _SECONDS))[0])
            if statuses[-1] == _CLOSED:
                break
        return statuses
    except ConnectionError:
        return [_CLOSED]
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Returns the status and the body of the next answer."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", head)
        return head.split()[1].decode(), await reader.readexactly(int(length[1]) if length else 0)
    except (asyncio.IncompleteReadError, ConnectionError):
        return _CLOSED, b""


async def probe(server: Server, requests: Requests, stop: asyncio.Event) -> list[float]:
    """Sends the good request again and again; returns the seconds that each took."""
    seconds, expected = [], b""
    while not stop.is_set():
        start = time.perf_counter()
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(requests.good)
        status, body = await asyncio.wait_for(answer(reader), _SECONDS)
        writer.close()
        seconds.append(time.perf_counter() - start)
        (row,) = json.loads(body)["predictions"]
        expected = expected or row["text"]
        assert (status, row["valid"], row["text"]) == ("200", True, expected), (status, body)
        await asyncio.sleep(0.1)
    return seconds


async def attack(server: Server, requests: Requests, made: Sequence[Sent]) -> tuple[dict[str, Counter[str]], list[float]]:
    """Sends all requests of `made`; returns the statuses of each kind, and the seconds of the good requests in between."""
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    turns, stop = asyncio.Semaphore(_AT_A_TIME), asyncio.Event()
    probing = asyncio.create_task(probe(server, requests, stop))

    async def one(sent: Sent) -> None:
        try:
            statuses = await send(server, sent)
            assert not [status for status in statuses if status.startswith("5") and status != "503"], (sent.kind, statuses, sent.parts)
            outcomes[sent.kind].update(statuses[-1:])
        finally:
            turns.release()

    tasks = []
    for sent in made:
        await turns.acquire()
        tasks.append(asyncio.create_task(one(sent)))
    await asyncio.gather(*tasks)
    stop.set()
    return outcomes, await probing


def main(seed: Annotated[int, typer.Option(help="Seed of all requests.")] = 1) -> None:
    served.pushed_model()
    good = served.pictures(1)[0]
    with running(*served.options()) as server:
        requests = Requests(server.model, good, random.Random(seed))
        for _ in range(20):
            asyncio.run(send(server, Sent("good", [requests.good])))
        made = list(requests.all(COUNT))
        before = server.memory()
        outcomes, seconds = asyncio.run(attack(server, requests, made))
        time.sleep(15)  # connections that were left open are closed
        after, most = server.memory(), server.memory("VmHWM")
        assert not server.has_ended, "The server ended."
    assert most - before < _MOST_MIB, (before, most)
    rows = []
    for kind, statuses in outcomes.items():
        rows.append([kind, f"{statuses.total():,}", ", ".join(f"{status} {number:,}" for status, number in sorted(statuses.items()))])
    record(
        "malformed",
        f"{COUNT:,} malformed requests to the server",
        ["requests", "number", "answers: status and number"],
        rows,
        [
            f"{_AT_A_TIME} at a time. Of several answers on a connection, the last counts. Closed: before an answer was read.",
            (
                f"Between them, {len(seconds):,} good requests were all read right: median {1000 * statistics.median(seconds):.0f} ms, "
                f"longest {max(seconds):.1f} s."
            ),
            f"Memory of the server: {before:.0f} MiB before, at most {most:.0f} MiB, {after:.0f} MiB after. Seed {seed}.",
        ],
    )


if __name__ == "__main__":
    silence()
    typer.run(main)
