"""Heads of requests that do not arrive, too many connections, and bytes that are not HTTP."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.http_protocol import DeadlineProtocol
from tests.api.fakes import Scripted, fake_app, serving
from tests.api.raw_http import exchange
from tests.http_options import LOCAL
from tests.waiting import LIMIT_S

HALF_A_BODY = b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{"


class HastyProtocol(DeadlineProtocol):
    head_deadline_s = 0.2


class NarrowProtocol(DeadlineProtocol):
    max_connections = 4


class ThriftyProtocol(DeadlineProtocol):
    max_chunks = 100


@pytest.mark.parametrize("path", [b"/api/v1/chat", b"/nowhere"])
def test_body_of_too_many_chunks_is_refused(path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n"
    with serving(fake_app(Scripted()), http=ThriftyProtocol) as url:
        few = head + b"Connection: close\r\n\r\n" + b"1\r\n[\r\n" * 100 + b"0\r\n\r\n"
        assert b"chunks" not in exchange(url, few)
        answer = exchange(url, head + b"\r\n" + b"1\r\n \r\n" * 101)
    assert answer.startswith(b"HTTP/1.1 400 ") and b"more than 100 chunks" in answer


def test_body_of_too_many_chunks_behind_another_request_is_refused() -> None:
    body = (
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 101
    )
    with serving(fake_app(Scripted()), http=ThriftyProtocol) as url:
        answer = exchange(url, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" + body)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"more than 100 chunks" in answer


def test_chunks_of_each_request_are_counted_anew() -> None:
    request = b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    request += b"1\r\n \r\n" * 60 + b"0\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with serving(fake_app(Scripted()), http=ThriftyProtocol) as url:
        answer = exchange(url, request, request, last)
    assert answer.count(b"HTTP/1.1 415 ") == 2 and answer.count(b"HTTP/1.1 200 ") == 1


@pytest.fixture(scope="module")
def hasty() -> Iterator[str]:
    with serving(fake_app(Scripted()), http=HastyProtocol) as url:
        yield url


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: local"])
def test_head_that_does_not_arrive_closes_the_connection(hasty: str, begun: bytes) -> None:
    assert exchange(hasty, begun) == b""


def test_second_head_that_does_not_arrive_closes_the_connection(hasty: str) -> None:
    answer = exchange(hasty, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HT")
    assert answer.count(b"HTTP/1.1 200") == 1


def test_reply_may_take_longer_than_a_head() -> None:
    scripted = Scripted()
    body = {"message": "hang", "stream": True}
    with (
        serving(fake_app(scripted), http=HastyProtocol) as url,
        httpx.stream("POST", f"{url}/api/v1/chat", json=body, **LOCAL) as reply,
    ):
        lines = reply.iter_lines()
        assert next(lines) == "event: start"
        assert exchange(url, b"GET / HT") == b""  # returns after the deadline for a head
        assert not scripted.cancelled.is_set()


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it without an answer. It is reset if the server has not read all bytes."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("begun", [b"", b"GET / HT", HALF_A_BODY])
def test_silent_connections_make_room_for_a_request(begun: bytes) -> None:
    with serving(fake_app(Scripted()), http=NarrowProtocol) as url, ExitStack() as open_sockets:
        address = urlsplit(url)
        silent = [
            open_sockets.enter_context(socket.create_connection((address.hostname, address.port), LIMIT_S))
            for _ in range(NarrowProtocol.max_connections)
        ]
        silent[0].sendall(begun)
        assert httpx.get(f"{url}/health/live", **LOCAL).status_code == 200
        assert is_closed(silent[0])  # the oldest one
        silent[-1].sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.1 200"


def test_connections_that_are_being_answered_stay_and_one_more_is_refused() -> None:
    scripted = Scripted()
    body = {"message": "hang", "stream": True}
    with (
        serving(fake_app(scripted), http=NarrowProtocol) as url,
        httpx.Client(base_url=url, **LOCAL) as client,
        ExitStack() as streams,
    ):
        replies = [
            streams.enter_context(client.stream("POST", "/api/v1/chat", json=body)).iter_lines()
            for _ in range(NarrowProtocol.max_connections)
        ]
        assert [next(lines) for lines in replies] == ["event: start"] * NarrowProtocol.max_connections
        head, _, text = exchange(url).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 429") and b"retry-after: 1" in head
        assert json.loads(text)["error"]["code"] == "queue_full"
        assert not scripted.cancelled.is_set()


def test_bytes_that_are_not_http_get_a_json_error(hasty: str) -> None:
    head, _, body = exchange(hasty, b"nonsense\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") and b"application/json" in head
    assert b'{"error":{"code":"invalid_request","message":"Invalid HTTP request received."}}' in body
