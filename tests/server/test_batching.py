"""Batches of a server's requests, with a stand-in for the model."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.server.batching import Answer, Batcher, QueueFull


class Model:
    """Answers each value with its length. Waits in `call` until `go` is set."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[bytes]]] = []
        self.go = threading.Event()
        self.go.set()

    def call(self, signature: str, values: Sequence[bytes]) -> Answer:
        self.go.wait()
        self.batches.append((signature, list(values)))
        if b"bad" in values:
            raise ValueError("a bad value")
        return {"length": np.array([len(value) for value in values]), "value": np.array([*values, None], object)[:-1]}


class Version:
    """A version with a stand-in for its model."""

    def __init__(self) -> None:
        self.model = Model()
        self.users = 0

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1


async def running(batcher: Batcher, work: Coroutine[Any, Any, Any]) -> Any:
    """Runs `work` while the batcher runs; returns its result."""
    task = asyncio.create_task(batcher.run())
    try:
        return await work
    finally:
        task.cancel()


@pytest.fixture
def executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def batcher_of(executor: ThreadPoolExecutor, size: int = 4, wait: float = 0, capacity: int = 100) -> Batcher:
    return Batcher(size, wait, capacity, executor, lambda count, seconds: None, lambda waiting: None)


def test_requests_that_wait_are_read_together(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor)

    async def work() -> None:
        version.model.go.clear()
        reads = [asyncio.create_task(batcher.read(version, "s", [value])) for value in (b"a", b"bb", b"ccc", b"d", b"e", b"f")]
        await asyncio.sleep(0.05)  # the first is being read
        version.model.go.set()
        answers = await asyncio.gather(*reads)
        assert [answer["length"].tolist() for answer in answers] == [[1], [2], [3], [1], [1], [1]]

    asyncio.run(running(batcher, work()))
    sizes = [len(values) for _, values in version.model.batches]
    assert sum(sizes) == 6
    assert max(sizes) == 4
    assert len(sizes) <= 3
    assert version.users == 0


def test_a_batch_has_one_version_and_one_signature(executor: ThreadPoolExecutor) -> None:
    old, new, batcher = Version(), Version(), batcher_of(executor)

    async def work() -> None:
        calls = [(old, "s", b"1"), (old, "t", b"2"), (new, "s", b"3"), (new, "s", b"4"), (old, "s", b"5")]
        await asyncio.gather(*(batcher.read(version, signature, [value]) for version, signature, value in calls))

    asyncio.run(running(batcher, work()))
    assert old.model.batches == [("s", [b"1"]), ("t", [b"2"]), ("s", [b"5"])]
    assert new.model.batches == [("s", [b"3", b"4"])]


def test_a_long_request_takes_several_batches(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor)
    values = [b"x" * number for number in range(11)]
    answer = asyncio.run(running(batcher, batcher.read(version, "s", values)))
    assert answer["length"].tolist() == list(range(11))
    assert [len(batch) for _, batch in version.model.batches] == [4, 4, 3]


def test_no_values_are_a_request_too(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor)
    assert asyncio.run(running(batcher, batcher.read(version, "s", [])))["length"].tolist() == []


def test_a_request_at_an_idle_server_does_not_wait(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, wait=60)

    async def work() -> None:
        for value in (b"1", b"2", b"3"):
            await asyncio.wait_for(batcher.read(version, "s", [value]), 30)

    asyncio.run(running(batcher, work()))
    assert version.model.batches == [("s", [b"1"]), ("s", [b"2"]), ("s", [b"3"])]


def test_a_batch_waits_for_as_many_values_as_before(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, wait=60)

    async def work() -> None:
        await batcher.read(version, "s", [b"1", b"2", b"3"])
        first = asyncio.create_task(batcher.read(version, "s", [b"4"]))
        second = asyncio.create_task(batcher.read(version, "s", [b"5"]))
        await asyncio.sleep(0.05)
        assert not first.done()
        await asyncio.wait_for(asyncio.gather(first, second, batcher.read(version, "s", [b"6"])), 30)

    asyncio.run(running(batcher, work()))
    assert version.model.batches == [("s", [b"1", b"2", b"3"]), ("s", [b"4", b"5", b"6"])]


def test_a_batch_does_not_wait_longer_than_configured(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, wait=0.01)

    async def work() -> None:
        await batcher.read(version, "s", [b"1", b"2", b"3"])
        for value in (b"4", b"5"):
            await asyncio.wait_for(batcher.read(version, "s", [value]), 30)

    asyncio.run(running(batcher, work()))
    assert version.model.batches == [("s", [b"1", b"2", b"3"]), ("s", [b"4"]), ("s", [b"5"])]


def test_a_full_queue_refuses_requests_and_takes_them_later(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, size=1, capacity=2)

    async def work() -> None:
        version.model.go.clear()
        reading = asyncio.create_task(batcher.read(version, "s", [b"1"]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(batcher.read(version, "s", [b"2", b"3"]))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull) as full:
            await batcher.read(version, "s", [b"4"])
        assert full.value.retry_after >= 0
        version.model.go.set()
        await asyncio.gather(reading, waiting)
        assert (await batcher.read(version, "s", [b"4"]))["value"].tolist() == [b"4"]

    asyncio.run(running(batcher, work()))


def test_a_request_longer_than_the_queue_is_read_by_an_idle_server(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, capacity=2)
    assert len(asyncio.run(running(batcher, batcher.read(version, "s", [b"x"] * 9)))["length"]) == 9


def test_an_error_concerns_its_batch_only(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, size=1)

    async def work() -> None:
        results = await asyncio.gather(*(batcher.read(version, "s", [value]) for value in (b"1", b"bad", b"2")), return_exceptions=True)
        assert [type(result) for result in results] == [dict, ValueError, dict]

    asyncio.run(running(batcher, work()))
    assert version.users == 0


def test_values_of_a_cancelled_request_are_not_read(executor: ThreadPoolExecutor) -> None:
    version, batcher = Version(), batcher_of(executor, size=1)

    async def work() -> None:
        version.model.go.clear()
        first, second, third = (asyncio.create_task(batcher.read(version, "s", [value])) for value in (b"1", b"2", b"3"))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        version.model.go.set()
        await asyncio.gather(first, third)

    asyncio.run(running(batcher, work()))
    assert [values for _, values in version.model.batches] == [[b"1"], [b"3"]]
    assert version.users == 0
    assert batcher.waiting == 0


@given(st.lists(st.tuples(st.booleans(), st.lists(st.binary(max_size=5).filter(lambda value: value != b"bad"), max_size=9)), max_size=20))
def test_every_request_gets_its_own_answer(requests: list[tuple[bool, list[bytes]]]) -> None:
    versions = Version(), Version()
    with ThreadPoolExecutor(1) as executor:
        batcher = batcher_of(executor, capacity=1000)

        async def work() -> list[Answer]:
            return list(await asyncio.gather(*(batcher.read(versions[which], "s", values) for which, values in requests)))

        answers = asyncio.run(running(batcher, work()))
    assert [answer["value"].tolist() for answer in answers] == [values for _, values in requests]
    assert all(len(batch) <= 4 for version in versions for _, batch in version.model.batches)
