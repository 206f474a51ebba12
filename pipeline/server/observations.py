"""Hands readings to watchers, such as the prediction log and the drift monitor, in a thread of their own."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from google.protobuf.message import DecodeError

from components.base.features import CONFIDENCE, IMAGE, TEXT, VALID
from components.data.example_proto import Example
from pipeline.server.versions import Version

_LOG: Final = logging.getLogger(__name__)
_BYTES: Final = 64 * 2**20  # of the values of requests that wait for the watchers
_SECONDS_TO_END: Final = 5.0


class Observation(NamedTuple):
    """A valid picture and its reading.

    Attributes:
      version: the version that read it.
      picture: encoded.
      text: that was read.
      confidence: in the text, 0 to 1.
      time: seconds since 1970.
    """

    version: Version
    picture: bytes
    text: str
    confidence: float
    time: float


class Watcher(Protocol):
    """Sees valid pictures and their readings. To add one, list it in pipeline/server/app.py."""

    def watch(self, observation: Observation) -> None:
        """Called in the thread of the observations."""

    def close(self) -> None:
        """Called after the last observation."""


class _Request(NamedTuple):
    version: Version
    signature: str
    values: Sequence[bytes]
    answer: Mapping[str, np.ndarray]
    time: float


class Observations:
    """A queue and a thread. Requests never wait for it: if its memory is full, their pictures are not observed."""

    def __init__(self, watchers: Iterable[Watcher], lost: Callable[[int], None]):
        """Starts the thread.

        Args:
          watchers: an error of one is logged, and the others go on.
          lost: called with a number of pictures that were not observed.
        """
        self._watchers = tuple(watchers)
        self._lost = lost
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._bytes = 0  # of the values in the queue
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="observations", daemon=True)
        self._thread.start()

    def observe(self, version: Version, signature: str, values: Sequence[bytes], answer: Mapping[str, np.ndarray]) -> None:
        """Adds a request. See `pipeline.server.reading.Observer`."""
        if VALID not in answer or not self._watchers:
            return
        size = sum(map(len, values))
        with self._lock:
            is_full = self._bytes + size > _BYTES
            self._bytes += 0 if is_full else size
        if is_full:
            self._lost(len(values))
        else:
            self._queue.put(_Request(version, signature, values, answer, time.time()))

    def close(self) -> None:
        """Ends the thread. It may still observe what waits, but for some seconds only."""
        self._queue.put(None)
        self._thread.join(_SECONDS_TO_END)
        for watcher in self._watchers:
            watcher.close()

    def _work(self) -> None:
        while request := self._queue.get():
            with self._lock:
                self._bytes -= sum(map(len, request.values))
            try:
                observations = list(_pictures(request))
            except DecodeError:  # TensorFlow reads some tf.Examples that are not valid
                continue
            for observation in observations:
                for watcher in self._watchers:
                    try:
                        watcher.watch(observation)
                    except Exception:  # a full disk or a picture that only the model can decode must not end the thread
                        _LOG.exception("A reading could not be observed")


def _pictures(request: _Request) -> Iterator[Observation]:
    outputs = (request.answer[name] for name in (TEXT, CONFIDENCE, VALID))
    for value, text, confidence, valid in zip(request.values, *outputs, strict=True):
        if valid:
            picture = value
            if request.signature == "serving_examples":
                picture = Example.FromString(value).features.feature[IMAGE].bytes_list.value[0]
            yield Observation(request.version, picture, text.decode(), float(confidence), request.time)
