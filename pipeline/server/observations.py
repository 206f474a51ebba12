"""Hands readings to watchers, such as the prediction log and the drift monitor, in a thread of their own."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from components.base.features import CONFIDENCE, IMAGE, TEXT, VALID
from components.data.example_proto import Example
from pipeline.server.versions import Version

_LOG: Final = logging.getLogger(__name__)
_REQUESTS: Final = 1000  # that wait for the watchers


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
    """A queue and a thread. Requests never wait for it: if the queue is full, their pictures are not observed."""

    def __init__(self, watchers: Iterable[Watcher], lost: Callable[[int], None]):
        """Starts the thread.

        Args:
          watchers: an error of one is logged, and the others go on.
          lost: called with a number of pictures that were not observed.
        """
        self._watchers = tuple(watchers)
        self._lost = lost
        self._queue: queue.Queue[_Request | None] = queue.Queue(_REQUESTS)
        self._thread = threading.Thread(target=self._work, name="observations", daemon=True)
        self._thread.start()

    def observe(self, version: Version, signature: str, values: Sequence[bytes], answer: Mapping[str, np.ndarray]) -> None:
        """Adds a request. See `pipeline.server.reading.Observer`."""
        if VALID not in answer or not self._watchers:
            return
        try:
            self._queue.put_nowait(_Request(version, signature, values, answer, time.time()))
        except queue.Full:
            self._lost(len(values))

    def close(self) -> None:
        """Waits until everything in the queue is observed, and ends the thread."""
        self._queue.put(None)
        self._thread.join()
        for watcher in self._watchers:
            watcher.close()

    def _work(self) -> None:
        while request := self._queue.get():
            for observation in _pictures(request):
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
