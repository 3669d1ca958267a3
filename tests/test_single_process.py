"""Processes that share a server's socket, as the workers of gunicorn and uvicorn do: one of them serves."""

import asyncio
import multiprocessing
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.single_process import SingleProcess, asked_workers, claim_socket, server_sockets
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the check works on Linux only")

LIFESPAN: Scope = {"type": "lifespan"}


async def _served(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "lifespan.startup.complete"})


async def _start(patience_s: float) -> list[Message]:
    """The answers of an application to its start."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await SingleProcess(_served, patience_s)(LIFESPAN, receive, send)
    return sent


def start(patience_s: float = 0.0) -> str:
    (answer,) = asyncio.run(_start(patience_s))
    return str(answer["type"])


def _hold(listener: socket.socket, parent: Connection) -> None:
    """Serves the listener until the parent says so."""
    claims = [claim_socket(inode) for inode in server_sockets()]
    parent.send(len(claims))
    parent.recv()


@contextmanager
def sibling(listener: socket.socket) -> Iterator[Connection]:
    """Another process that serves the listener, until something is sent to it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(listener, there))
    process.start()
    try:
        assert here.poll(LIMIT_S) and here.recv() == 1
        yield here
    finally:
        process.kill()
        process.join(LIMIT_S)


def test_second_process_on_a_socket_is_refused_and_then_served_when_the_first_has_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert start() == "lifespan.startup.complete"
        with sibling(listener):
            assert start() == "lifespan.startup.failed"
        assert start() == "lifespan.startup.complete"


def test_process_that_is_replaced_gets_time_to_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, sibling(listener) as first:
        first.send("end")
        assert start(patience_s=LIMIT_S) == "lifespan.startup.complete"


def test_servers_on_sockets_of_their_own_are_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, sibling(other):
        other.close()
        with socket.create_server(("127.0.0.1", 0)):
            assert start() == "lifespan.startup.complete"


def test_applications_in_one_process_are_served() -> None:
    with socket.create_server(("127.0.0.1", 0)):
        held = [claim_socket(inode) for inode in server_sockets()]
        assert start() == "lifespan.startup.complete"
        for claim in held:
            assert claim is not None
            claim.close()


@pytest.mark.parametrize(
    ("arguments", "environ", "workers"),
    [
        (["--workers", "2"], {}, "2"),
        (["--workers=3"], {"WEB_CONCURRENCY": "1"}, "3"),
        (["--workers", "1"], {"WEB_CONCURRENCY": "2"}, "1"),
        ([], {"WEB_CONCURRENCY": "2"}, "2"),
        ([], {"UVICORN_WORKERS": "2", "WEB_CONCURRENCY": "1"}, "2"),
        (["--port", "1"], {}, ""),
        (["--workers"], {}, ""),
    ],
)
def test_number_of_workers_is_read_as_uvicorn_does(
    arguments: list[str], environ: dict[str, str], workers: str
) -> None:
    assert asked_workers(["app.main:app", *arguments], environ) == workers
