"""What the interfaces of the server share: the loaded versions and the reading."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request

from pipeline.server.batching import Batcher, QueueFull
from pipeline.server.messages import RequestError
from pipeline.server.versions import Version, Versions


class Observer(Protocol):
    """Sees every reading. To add one, list it in pipeline/server/app.py."""

    def observe(self, version: Version, signature: str, values: Sequence[bytes], answer: Mapping[str, np.ndarray]) -> None:
        """Called in the event loop's thread with each answered request: it must return at once."""


class Server:
    """A server for one model.

    Attributes:
      name: the name of the model in requests.
      versions: the loaded versions.
    """

    def __init__(self, name: str, versions: Versions, batcher: Batcher, observers: Sequence[Observer]):
        self.name = name
        self.versions = versions
        self._batcher = batcher
        self._observers = observers

    async def read(self, version: Version, signature: str, values: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature for the values, each [len(values), …].

        Raises:
          RequestError: the server is busy (429), the model refuses the values (400), or they are more than the queue has room for (413).
        """
        if len(values) > self._batcher.capacity:
            raise RequestError(413, f"A request may have at most {self._batcher.capacity:,} pictures; this one has {len(values):,}.")
        try:
            answer = await self._batcher.read(version, signature, values)
        except QueueFull as full:
            raise RequestError(429, str(full), full.retry_after) from None
        except tf.errors.InvalidArgumentError as error:
            raise RequestError(400, error.message) from None
        except UnicodeDecodeError:  # TensorFlow's message quotes the value
            raise RequestError(400, "The model refuses a value of the request.") from None
        for observer in self._observers:
            observer.observe(version, signature, values, answer)
        return answer


def server_of(request: Request) -> Server:
    """Returns the server that a request has reached."""
    server: Server = request.app.state.server
    return server


class _Segment(Convertor[str]):
    """`{name:segment}` in a route: a part of a path, without the colon that separates a model from its method."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("segment", _Segment())
