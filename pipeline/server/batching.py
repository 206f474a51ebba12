"""Joins the pictures of requests that arrive at the same time into batches, because a model reads them faster together."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Answer = dict[str, np.ndarray]


class Model(Protocol):
    """`components.serving.loaded.LoadedModel`, as far as batches need it."""

    def call(self, signature: str, values: Sequence[bytes]) -> Answer:
        """Returns the outputs of a signature."""


class Version(Protocol):
    """`pipeline.server.versions.Version`, as far as batches need it."""

    @property
    def model(self) -> Model:
        """Its signatures."""

    def used(self) -> AbstractContextManager[None]:
        """Keeps the version loaded."""


class QueueFull(Exception):
    """More pictures wait than the server accepts. `retry_after` says in how many seconds there will probably be room."""

    def __init__(self, retry_after: float):
        super().__init__("The server is busy: its queue is full.")
        self.retry_after = retry_after


@dataclass(frozen=True, eq=False)
class _Entry:
    """Values that wait for a signature of a version, at most a batch, and the answer to them."""

    version: Version
    signature: str
    values: Sequence[bytes]
    answer: "asyncio.Future[Answer]"

    def fits(self, other: "_Entry") -> bool:
        return (self.version, self.signature) == (other.version, other.signature)


class Batcher:
    """A queue of values, and one task that calls the model with them.

    A batch is what waits when the model is free, up to `size` values for the same signature of the same version. Clients that have just got
    an answer often send more, so a batch waits for as many values as were read or waiting when the last batch ended, but not longer than
    `wait`. A single client with one picture per request therefore never waits; the first request after a load may.
    """

    def __init__(
        self, size: int, wait: float, capacity: int, executor: Executor, read: Callable[[int, float], None], queued: Callable[[int], None]
    ):
        """Makes an empty queue. Start `run` as a task.

        Args:
          size: the largest batch.
          wait: the longest time that a batch waits for further values, in seconds.
          capacity: the largest number of waiting values.
          executor: runs the model. One thread is enough, since TensorFlow has its own.
          read: called with the size of each batch, and the seconds that the model took.
          queued: called with the number of waiting values whenever it changes.
        """
        self._size, self._wait, self._capacity = size, wait, capacity
        self._executor, self._read, self._queued = executor, read, queued
        self._entries: deque[_Entry] = deque()
        self._arrival = asyncio.Event()
        self._waiting = 0
        self._expected = 0  # values in the next batch
        self._wanted = 0  # `_arrival` is set once so many values wait
        self._seconds_a_value = 0.0  # of late, to tell clients when to come again

    @property
    def capacity(self) -> int:
        """The largest number of waiting values."""
        return self._capacity

    @property
    def waiting(self) -> int:
        """The number of values in the queue."""
        return self._waiting

    async def read(self, version: Version, signature: str, values: Sequence[bytes]) -> Answer:
        """Returns the answer of a version's signature to the values: its outputs, each [len(values), …].

        A request of more values than a batch takes several batches. If the caller is cancelled, values that still wait are not read.

        Raises:
          QueueFull: the values have no room in the queue.
          ValueError, tf.errors.OpError: as `LoadedModel.call`.
        """
        if self._waiting and self._waiting + len(values) > self._capacity:
            raise QueueFull(self._waiting * self._seconds_a_value)
        loop = asyncio.get_running_loop()
        parts = [values[start : start + self._size] for start in range(0, len(values), self._size)] or [values]
        entries = [_Entry(version, signature, part, loop.create_future()) for part in parts]
        with version.used():
            self._entries.extend(entries)
            self._count(len(values))
            if self._waiting >= self._wanted:
                self._arrival.set()
            if len(entries) == 1:
                return await entries[0].answer
            answers = await asyncio.gather(*(entry.answer for entry in entries))
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    async def run(self) -> None:
        """Calls the model until the task is cancelled."""
        while True:
            while not self._entries:
                await self._arrive(0)
            if self._waiting < self._expected and self._wait:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._arrive(self._expected), self._wait)
            if batch := self._next_batch():
                await self._call(batch)
                self._expected = min(self._size, self._waiting + sum(len(entry.values) for entry in batch))

    async def _arrive(self, wanted: int) -> None:
        """Waits for a request after which at least `wanted` values wait."""
        self._wanted = wanted
        self._arrival.clear()
        await self._arrival.wait()

    def _count(self, change: int) -> None:
        self._waiting += change
        self._queued(self._waiting)

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        count = 0
        while self._entries:
            entry = self._entries[0]
            if batch and not (entry.fits(batch[0]) and count + len(entry.values) <= self._size):
                break
            self._entries.popleft()
            self._count(-len(entry.values))
            if not entry.answer.done():  # cancelled, if the server ends
                batch.append(entry)
                count += len(entry.values)
        return batch

    async def _call(self, batch: list[_Entry]) -> None:
        values = [value for entry in batch for value in entry.values]
        model, signature = batch[0].version.model, batch[0].signature
        start = time.perf_counter()
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._executor, model.call, signature, values)
        except Exception as error:  # whatever TensorFlow raises is the answer to this request; the others go on
            if len(batch) > 1:
                for entry in batch:
                    await self._call([entry])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        seconds = time.perf_counter() - start
        self._read(len(values), seconds)
        self._seconds_a_value = seconds / max(len(values), 1)
        position = 0
        for entry in batch:
            end = position + len(entry.values)
            if not entry.answer.done():
                entry.answer.set_result({name: output[position:end] for name, output in answer.items()})
            position = end
