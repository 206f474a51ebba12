"""Requests for benchmarks/malformed.py, as a stranger or a broken client could send them. A seed determines all of them."""

import base64
import functools
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import hostile_inputs
from components.data.exif import PNG_SIGNATURE

CRLF: Final = b"\r\n"


@dataclass(frozen=True)
class Sent:
    """A request as bytes.

    Attributes:
      kind: for the table.
      parts: are sent one after the other.
      pause: seconds between two parts.
      closes: whether the client closes the connection after the last part, and does not read.
      answers: the number of answers that the client waits for.
    """

    kind: str
    parts: Sequence[bytes]
    pause: float = 0
    closes: bool = False
    answers: int = 1


class Requests:
    """Makes requests to a model."""

    def __init__(self, model: str, good: bytes, rng: random.Random):
        """Takes the name of the model and a picture that it reads."""
        self._predict = f"/v1/models/{model}:predict"
        self._infer = f"/v2/models/{model}/infer"
        self._rng = rng
        self.good = post(self._predict, rows([good]))
        self._body = rows([good])
        self._too_long = post(self._predict, b"x" * (17 * 2**20))

    def all(self, count: int) -> Iterator[Sent]:
        """Yields `count` requests, of all kinds in turn."""
        kinds: dict[str, Callable[[], Sent]] = {
            "broken JSON": lambda: self._json(self._broken()),
            "JSON of wrong types": lambda: self._json(json.dumps(self._wrong()).encode()),
            "deep nesting": lambda: self._json(self._deep()),
            "numbers without end, NaN, Infinity": lambda: self._json(self._number()),
            "bytes that are not UTF-8": lambda: self._json(b'{"instances": ["' + self._rng.randbytes(50) + b'"]}'),
            "keys twice": lambda: self._json(b'{"instances": ["x"], "instances": 5, "signature_name": "", "signature_name": []}'),
            "wrong base64": lambda: self._json(json.dumps({"instances": [{"b64": self._text("AZaz09+/=-_ \n.é", 40)}]}).encode()),
            "wrong binary tensors": self._tensor,
            "serialized examples with flipped bits": self._example,
            "thousands of pictures": lambda: self._json(rows([b"x"] * self._rng.choice((513, 5_000, 50_000)))),
            "wrong Content-Length": self._wrong_length,
            "broken chunks": self._chunks,
            "wrong or huge heads": self._head,
            "random bytes": lambda: Sent("", [self._rng.randbytes(self._rng.randint(1, 2000)) + CRLF * 2]),
            "heads byte by byte": lambda: self._slow(len(self.good) - len(self._body), 0.3),
            "bodies byte by byte": lambda: self._slow(len(self.good), 0.3),
            "connections that close early": lambda: Sent("", [self.good[: self._rng.randrange(len(self.good))]], closes=True),
            "connections that do not read": lambda: Sent("", [self.good], closes=True),
            "pipelines, with a broken end": self._pipeline,
            "compressed bodies": lambda: self._json(
                zlib.compress(b"0" * 10**6), ("Content-Encoding: " + self._rng.choice(["gzip", "br"]),)
            ),
            "wrong methods and paths": self._path,
            "bodies over the limit": lambda: Sent("", [self._too_long]),
            "hostile pictures": lambda: self._json(rows(list(itertools.islice(self._hostile, 8)))),
            "pictures that expand to gigabytes": lambda: self._json(rows([bomb(self._rng.choice((1_000, 20_000, 60_000)))])),
        }
        self._hostile = self._pictures()
        rare = {"bodies over the limit": 20, "thousands of pictures": 4}  # they are long
        turn = list(kinds.items())
        for number in range(count):
            name, make = turn[number % len(turn)]
            if number // len(turn) % rare.get(name, 1):
                name, make = "broken JSON", kinds["broken JSON"]
            made = make()
            yield Sent(name, made.parts, made.pause, made.closes, made.answers)

    def _json(self, body: bytes, headers: Sequence[str] = ()) -> Sent:
        return Sent("", [post(self._rng.choice((self._predict, self._infer)), body, headers)])

    def _text(self, letters: str, most: int) -> str:
        return "".join(self._rng.choices(letters, k=self._rng.randint(1, most)))

    def _broken(self) -> bytes:
        return hostile_inputs.DAMAGES[self._rng.choice(("cut", "bits flipped"))](self._body, self._rng)

    def _wrong(self) -> Any:
        values: list[Any] = [
            None,
            True,
            -1,
            1.5,
            "x",
            [],
            {},
            [[]],
            [{}],
            {"b64": 5},
            {"image": None},
            {"b64": "eA==", "image": "x"},
            [None, "x"],
        ]
        choose = self._rng.choice
        tensor = {"name": choose(["image", 5]), "datatype": choose(["BYTES", "FP32", []]), "shape": choose(values), "data": choose(values)}
        keys = {"instances": choose(values), "inputs": choose([*values, [tensor], [tensor, tensor]]), "outputs": choose(values)}
        keys |= {"signature_name": choose(values), "parameters": choose(values), "id": choose(values)}
        return choose([keys, choose(values), {name: keys[name] for name in self._rng.sample(sorted(keys), 2)}])

    def _deep(self) -> bytes:
        depth = self._rng.choice((200, 300, 1_000, 1_100, 100_000))
        opening, closing = self._rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        value = opening * depth + b"1" + closing * depth
        key = self._rng.choice((b"signature_name", b"instances", b"inputs", b"id", b"parameters", b"other"))
        return self._rng.choice((value, opening * depth, b'{"instances": ["x"], "' + key + b'": ' + value + b"}"))

    def _number(self) -> bytes:
        number = self._rng.choice(
            (b"1" * 5_000, b"1e999", b"-1e-999", b"NaN", b"Infinity", b"-Infinity", str(2**64).encode(), b"0x10", b"01")
        )
        return self._rng.choice((b'{"instances": [' + number + b"]}", b'{"inputs": [{"name": "image", "shape": [' + number + b"]}]}"))

    def _tensor(self) -> Sent:
        data = (5).to_bytes(4, "little") + self._rng.choice((b"hello", b"hell", b"", b"hello\xff\xff\xff\xff"))
        size = self._rng.choice((len(data), 0, -1, 2**40, "9", None))
        tensor = {
            "name": "image",
            "datatype": "BYTES",
            "shape": [self._rng.choice((1, 2, 2**40))],
            "parameters": {"binary_data_size": size},
        }
        head = json.dumps({"inputs": [tensor]}).encode()
        length = self._rng.choice((len(head), 0, len(head) - 1, 10**30, "x", "-1", "+1"))
        header = f"Inference-Header-Content-Length: {length}"
        return Sent("", [post(self._infer, head + data, (header,))])

    def _example(self) -> Sent:
        *_, (_, data, _) = hostile_inputs.records(1, self._rng)
        signature = self._rng.choice(("serving_examples", "transform_features"))
        body = {
            "signature_name": signature,
            "instances": [{"b64": base64.b64encode(hostile_inputs.flipped(data or b"x", self._rng)).decode()}],
        }
        return Sent("", [post(self._predict, json.dumps(body).encode())])

    def _wrong_length(self) -> Sent:
        length = self._rng.choice(("-1", "1e3", "0x10", "", "9" * 40, str(len(self._body) - 20), str(len(self._body) + 20), "5, 5", "+5"))
        extra = self._rng.choice(((), ("Content-Length: 7",), ("Transfer-Encoding: chunked",)))
        return Sent("", [head("POST", self._predict, (f"Content-Length: {length}", *extra)) + self._body])

    def _chunks(self) -> Sent:
        good = b"%x\r\n%b\r\n" % (len(self._body), self._body)
        bad = self._rng.choice(
            (b"zz\r\n", b"-5\r\nhello\r\n", b"5\r\nhello", b"f" * 40 + CRLF, b"5;" + b"x" * 70_000, b"0\r\na: " + b"x" * 70_000)
        )
        coding = self._rng.choice(("chunked", "chunked, chunked", "gzip, chunked", "gzip", "xchunked"))
        return Sent("", [head("POST", self._predict, (f"Transfer-Encoding: {coding}",)), self._rng.choice((bad, good + bad))])

    def _head(self) -> Sent:
        choose = self._rng.choice
        lines = choose(
            (
                b"GET / HTTP/9.9\r\nHost: x",
                b"GET /\r\nHost: x",
                b"GET  / HTTP/1.1\r\nHost: x",
                b"GET / HTTP/1.1\r\nHost : x",
                b"GET / HTTP/1.1\r\n: x",
                b"GET / HTTP/1.1\r\nHost: a\x00b",
                b"GET / HTTP/1.1\nHost: x\n\nGET / HTTP/1.1",
                b"GET / HTTP/1.1\r\nHost: x\r\n folded: x",
                b"PRI * HTTP/2.0\r\n\r\nSM",
                b"CONNECT example.com:443 HTTP/1.1\r\nHost: x",
                b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5",
                b"GET / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 99999999999",
                b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: x",
                b"GET / HTTP/1.1\r\nLong: " + b"x" * 300_000,
                b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 60_000 + b"a: b",
            )
        )
        return Sent("", [lines + CRLF * 2])

    def _slow(self, until: int, pause: float) -> Sent:
        """Stops `until` bytes after the beginning: sends the last 60 of them one by one."""
        cut = max(until - 60, 1)
        return Sent("", [self.good[:cut], *(self.good[place : place + 1] for place in range(cut, until - 1))], pause)

    def _pipeline(self) -> Sent:
        number = self._rng.choice((2, 10, 16, 100))
        end = self._rng.choice((b"GARBAGE\r\n\r\n", self.good[:-1], b"", post(self._predict, b"{")))
        return Sent("", [self.good * number + end], answers=number)

    def _path(self) -> Sent:
        path = self._rng.choice(
            ("/", "*", "//", "/v1/models/%00", "/v1/models/" + "a" * 3000, "/v2/models/%ff/infer", "/v1/../healthz", self._predict)
        )
        method = self._rng.choice(("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"))
        return Sent("", [head(method, path, (f"Content-Length: {len(self._body)}",)) + self._body])

    def _pictures(self) -> Iterator[bytes]:
        for round_ in itertools.count():
            made = [hostile_inputs.formats_and_modes(200, 1000 * round_), hostile_inputs.odd(100, self._rng, 10**6 + 1000 * round_)]
            made += [hostile_inputs.damaged(100, damage, self._rng) for damage in ("cut", "bits flipped", "chunks changed")]
            for picture in itertools.chain.from_iterable(made):
                yield picture.data


def head(method: str, path: str, headers: Sequence[str]) -> bytes:
    """Returns the line and the headers of a request."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]).encode("utf-8", "surrogateescape")


def post(path: str, body: bytes, headers: Sequence[str] = ()) -> bytes:
    """Returns a request with a body."""
    return head("POST", path, (f"Content-Length: {len(body)}", *headers)) + body


def rows(pictures: Sequence[bytes]) -> bytes:
    """Returns the body of a request to read pictures."""
    return json.dumps({"instances": [{"b64": base64.b64encode(picture).decode()} for picture in pictures]}).encode()


@functools.cache
def bomb(side: int) -> bytes:
    """Returns a black PNG, `side` pixels wide and high, whose file is small: 3.6 gigapixels in 0.5 MB, for example."""
    packer, row = zlib.compressobj(9), bytes(1 + (side + 7) // 8)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    made = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"".join([PNG_SIGNATURE, *made])
