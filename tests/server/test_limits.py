"""Limits of requests and connections."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from pipeline.server.limits import HEAD_BYTES, PIPELINED
from tests.support.limited_server import SECONDS, Answers, Served, chunked, post, serving

MANY = 100_000


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving() as served:
        yield served


@pytest.fixture(autouse=True)
def closed(server: Served) -> None:
    server.app.state.go = False


def test_a_declared_body_may_not_be_too_long(server: Served) -> None:
    status, _, content = server.send(post(b"x" * (100 * 1024)))
    assert (status, content["bytes"]) == (200, 100 * 1024)
    status, _, content = server.send(post(b"x" * (100 * 1024 + 1))[:1000])
    assert status == 413
    assert "102,400" in content["error"]


@pytest.mark.parametrize("declared", ["9" * 18, "9" * 30])
def test_a_declared_body_may_be_huge(server: Served, declared: str) -> None:
    head = f"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: {declared}\r\n\r\n".encode()
    assert server.send(head)[0] in (400, 413)


def test_a_chunked_body_may_not_be_too_long(server: Served) -> None:
    fits = chunked("/", b"x" * (100 * 1024), b"")
    assert server.send(*fits)[2]["bytes"] == 100 * 1024
    assert server.send(*chunked("/", b"x" * (100 * 1024 + 1)))[0] == 413


def test_a_client_that_sends_a_long_body_sees_why_it_was_refused(server: Served) -> None:
    # 20 MB do not fit into the buffers of a connection, and most clients read the answer only after they have sent everything.
    assert server.send(post(b"x" * 20_000_000))[0] == 413


def test_a_body_that_never_ends_is_dropped_for_a_while_only(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(chunked("/", b"x" * (101 * 1024))[0])
        end = time.monotonic() + 20
        with contextlib.suppress(OSError):  # reset, or a broken pipe
            while time.monotonic() < end:
                connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert time.monotonic() < end
    assert server.is_well()


def test_a_body_after_the_answer_is_dropped_and_the_next_request_read(server: Served) -> None:
    body = b"x" * 90_000
    with server.connection() as connection:
        whole = post(body, "/no-body")
        connection.sendall(whole[:1000])
        answers = Answers(connection)
        assert answers.next()[0] == 200
        connection.sendall(whole[1000:] + post(b"abc"))
        assert answers.next()[2]["bytes"] == 3


def test_a_body_may_not_be_too_slow(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(post(b"abc")[:-1])
        status, _, content = Answers(connection).next()
    assert status == 408
    assert "0.5 seconds" in content["error"]


def test_a_body_may_come_byte_by_byte(server: Served) -> None:
    # Five bytes of sizes for each byte of data: 75,000, of which 15,000 + HEAD_BYTES are allowed, in however many parts they arrive.
    whole = b"".join(chunked("/", *[b"x"] * 15_000, b""))
    assert server.send(*(whole[start : start + 3] for start in range(0, 3000, 3)), whole[3000:])[2]["bytes"] == 15_000


def test_compressed_bodies_are_refused(server: Served) -> None:
    assert server.send(post(b"abc", "/", "Content-Encoding: gzip"))[0] == 415
    assert server.send(post(b"abc", "/", "Content-Encoding: identity"))[0] == 200


def test_all_bodies_together_are_bounded(server: Served) -> None:
    with server.connection() as first:
        first.sendall(post(b"x" * 90_000, "/slow"))
        end = time.monotonic() + 20
        while (answer := server.send(post(b"x" * 90_000)))[0] == 200:
            assert time.monotonic() < end
        assert answer[0] == 503
        assert answer[1]["retry-after"] == "1"
        assert server.is_well()
        server.app.state.go = True
        assert Answers(first).next()[2]["bytes"] == 90_000
    assert server.send(post(b"x" * 90_000))[0] == 200


def test_a_head_may_not_be_too_long(server: Served) -> None:
    status, headers, content = server.send(b"GET / HTTP/1.1\r\nHost: here\r\nLong: " + b"x" * 2**20)
    assert status == 400
    assert headers["connection"] == "close"
    assert f"{HEAD_BYTES:,}" in content["error"]
    assert server.send(b"GET / HTTP/1.1\r\nHost: here\r\nLong: " + b"x" * (HEAD_BYTES - 1000) + b"\r\n\r\n")[0] == 200


def test_headers_may_not_be_too_many(server: Served) -> None:
    assert server.send(b"GET / HTTP/1.1\r\nHost: here\r\n" + b"a: b\r\n" * 200_000)[0] == 400


@pytest.mark.parametrize("part", [b"GET / HTTP/1.1\r\nHo", b"\r\n", b"G"])
def test_a_head_may_not_be_too_slow(server: Served, part: bytes) -> None:
    with server.connection() as connection:
        connection.sendall(part)
        assert Answers(connection).next()[0] == 408


def test_a_connection_without_a_request_is_closed(server: Served) -> None:
    with server.connection() as connection:
        assert Answers(connection).statuses() == []


def test_empty_lines_do_not_keep_a_connection_open(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(post(b"abc"))
        answers = Answers(connection)
        assert answers.next()[0] == 200
        with contextlib.suppress(OSError):
            for _ in range(200):
                connection.sendall(b"\r\n")
                time.sleep(0.02)
        assert answers.statuses() in ([], [408])


def test_trailers_are_dropped(server: Served) -> None:
    status, _, content = server.send(*chunked("/", b"abc"), b"0\r\nContent-Encoding: gzip\r\nInference-Header-Content-Length: 1\r\n\r\n")
    assert (status, content["bytes"]) == (200, 3)
    assert "inference-header-content-length" not in content["headers"]


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * MANY, b"a: " + b"x" * 10 * MANY], ids=["many", "long"])
def test_trailers_may_not_be_too_long(server: Served, trailer: bytes) -> None:
    assert server.send(*chunked("/", b"abc"), b"0\r\n" + trailer)[0] == 400


def test_sizes_of_chunks_may_not_be_too_long(server: Served) -> None:
    assert server.send(*chunked("/"), b"1;" + b"x" * 10 * MANY)[0] == 400


def test_chunks_may_not_be_broken(server: Served) -> None:
    status, _, content = server.send(*chunked("/", b"abc"), b"zz\r\n")
    assert status == 400
    assert "Invalid HTTP request" in content["error"]


def test_requests_on_a_connection_are_answered_in_turn(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(b"".join(post(b"x" * number) for number in range(PIPELINED)))
        answers = Answers(connection)
        assert [answers.next()[2]["bytes"] for _ in range(PIPELINED)] == list(range(PIPELINED))


def test_few_requests_wait_on_a_connection(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(post(b"abc", "/slow") + b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" * MANY)
        time.sleep(0.1)
        server.app.state.go = True
        # Those that came before the one too many are answered; then the connection is closed.
        assert Answers(connection).statuses() == [200] * (PIPELINED + 1)
    assert server.is_well()


@pytest.mark.parametrize(
    "second",
    [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\nLong: " + b"x" * 2**20, b"GET / HTTP/1.1\r\nHo"],
    ids=["broken", "long", "slow"],
)
def test_a_bad_request_does_not_cost_the_earlier_one_its_answer(server: Served, second: bytes) -> None:
    with server.connection() as connection:
        connection.sendall(post(b"abc", "/slow"))
        with contextlib.suppress(OSError):
            connection.sendall(second)
        time.sleep(SECONDS + 0.2)
        server.app.state.go = True
        answers = Answers(connection)
        assert answers.next()[2] == {"bytes": 3}
        assert answers.next()[0] in (0, 400, 408)


def test_the_server_asks_for_a_body_that_it_will_take(server: Served) -> None:
    with server.connection() as connection:
        head, _, body = post(b"abc", "/", "Expect: 100-continue").partition(b"\r\n\r\n")
        connection.sendall(head + b"\r\n\r\n")
        answers = Answers(connection)
        assert answers.next()[0] == 100
        connection.sendall(body)
        assert answers.next()[2]["bytes"] == 3


def test_the_server_does_not_ask_for_a_body_that_is_too_long(server: Served) -> None:
    head, _, _ = post(b"x" * 200_000, "/", "Expect: 100-continue").partition(b"\r\n\r\n")
    assert server.send(head + b"\r\n\r\n")[0] == 413


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_wish_to_upgrade_is_ignored(server: Served, protocol: str) -> None:
    # Java's HttpClient and `curl --http2` wish it with each request.
    headers = ("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__", "Other: kept")
    with server.connection() as connection:
        whole = post(b"x" * 90_000, "/", *headers)
        connection.sendall(whole[:500])
        time.sleep(0.05)
        connection.sendall(whole[500:] + post(b"abc"))
        answers = Answers(connection)
        status, _, content = answers.next()
        assert (status, content["bytes"], content["headers"]["other"]) == (200, 90_000, "kept")
        assert answers.next()[2]["bytes"] == 3


def test_the_server_is_no_proxy(server: Served) -> None:
    assert server.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")[0] == 400


def test_http_1_0_gets_one_answer(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(post(b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"))
        answers = Answers(connection)
        assert answers.next()[2]["bytes"] == 3
        assert answers.next()[0] == 0


def test_head_gets_no_body(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: here\r\n\r\n" + post(b"abc"))
        file = connection.makefile("rb")
        assert b"200" in file.readline()
        while file.readline().strip():
            pass
        assert b"200" in file.readline()


def test_connections_over_the_limit_get_status_503() -> None:
    with serving(connections=20) as server, contextlib.ExitStack() as opened:
        first = [opened.enter_context(server.connection()) for _ in range(20)]
        for connection in first:
            connection.sendall(post(b"abc", "/slow"))
        server.wait_for_connections(20)
        for _ in range(10):
            status, headers, content = server.send(post(b"abc"))
            assert status == 503
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
            assert "connections" in content["error"]
        server.app.state.go = True
        assert [Answers(connection).next()[0] for connection in first] == [200] * 20
        opened.close()
        server.wait_for_connections(0)
        assert server.is_well()


def test_a_client_that_does_not_read_is_left(server: Served) -> None:
    with server.connection() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        server.wait_for_connections(1)
        server.wait_for_connections(0)
    assert server.is_well()
