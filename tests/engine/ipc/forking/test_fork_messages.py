"""Messages between a fork server and its clients, on real sockets."""

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from app.engine.ipc.forking.fork_messages import (
    Forked,
    ForkRequest,
    NotForked,
    receive_answer,
    receive_request,
    send_answer,
    send_request,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_request_arrives_whatever_its_bytes_and_size(pair: Pair) -> None:
    request = ForkRequest(b"ipc:///caf\xe9", {b"caf\xe9": b"\xff" * 1_000_000}, b"/caf\xe9")
    send_request(pair[0], request, [0, 1, 2])
    received, streams = receive_request(pair[1])
    assert received == request
    assert [os.fstat(fd).st_ino for fd in streams] == [os.fstat(fd).st_ino for fd in (0, 1, 2)]
    for fd in streams:
        os.close(fd)


def test_request_without_its_descriptors_is_an_os_error(pair: Pair) -> None:
    pair[0].send(b"anything")
    with pytest.raises(OSError, match="without its descriptors"):
        receive_request(pair[1])


@pytest.mark.parametrize("answer", [b"\xff", b"\x81\xa4type\xa5Other"])
def test_answer_that_cannot_be_read_is_an_os_error(pair: Pair, answer: bytes) -> None:
    pair[0].send(answer)
    with pytest.raises(OSError, match="cannot be read"):
        receive_answer(pair[1])


def test_answer_without_its_descriptor_is_an_os_error(pair: Pair) -> None:
    send_answer(pair[0], Forked(1))
    with pytest.raises(OSError, match="no descriptor is free"):
        receive_answer(pair[1])


def test_refusal_has_the_reason_of_the_system(pair: Pair) -> None:
    send_answer(pair[0], NotForked(errno.EAGAIN))
    with pytest.raises(BlockingIOError):
        receive_answer(pair[1])


def test_end_of_the_fork_server_is_an_os_error(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        receive_answer(pair[1])
