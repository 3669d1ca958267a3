"""The loop of a fork server, with a stand-in for os.fork."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.engine.ipc.forking.fork_messages import ForkRequest, receive_answer, send_request
from app.engine.ipc.forking.fork_server import ForkLoop


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "fork-server"))
        listening.listen()
        yield listening


def client(listening: socket.socket) -> socket.socket:
    """Returns a connection on which a worker has been requested."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(30)
    connection.connect(listening.getsockname())
    send_request(connection, ForkRequest(b"ipc:///nowhere", {}, b"/"), [0, 1, 2])
    return connection


def run_with(listening: socket.socket, fork: Callable[[], int]) -> list[str]:
    """Runs the loop until the first call of `fork`, after which its owner goes. Returns the calls."""
    reading, writing = os.pipe()
    calls = []

    def fork_once() -> int:
        os.close(writing)
        calls.append("fork")
        return fork()

    assert ForkLoop(listening, reading, fork_once).run() is None
    os.close(reading)
    return calls


def refuse() -> int:
    raise BlockingIOError(errno.EAGAIN, "no room for another process")


def test_fork_server_survives_a_fork_that_the_system_refuses(listening: socket.socket) -> None:
    with client(listening) as waiting:
        run_with(listening, refuse)
        with pytest.raises(BlockingIOError):
            receive_answer(waiting)


def test_fork_server_does_not_fork_for_a_client_that_has_gone(listening: socket.socket) -> None:
    client(listening).close()
    with client(listening):
        assert run_with(listening, refuse) == ["fork"]
