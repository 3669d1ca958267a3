"""Defines the messages between a fork server and the launchers that ask it for workers."""

import asyncio
import contextlib
import errno
import os
import socket
from typing import Any

import msgspec

_MESSAGE_BYTES = 1024
_STREAMS = 3  # standard input, output and error


class ForkRequest(msgspec.Struct, frozen=True):
    """Asks for a worker. Paths and variables are bytes, because they need not be text."""

    address: bytes
    environment: dict[bytes, bytes]
    folder: bytes  # working directory


class Forked(msgspec.Struct, frozen=True, tag=True):
    """The answer to a request. A pidfd of the worker is sent along."""

    pid: int


class NotForked(msgspec.Struct, frozen=True, tag=True):
    """The answer to a request if the system refused to fork, for the reason `errno`."""

    errno: int


class Exited(msgspec.Struct, frozen=True):
    """Sent when the worker has ended: its exit status, or minus the signal that ended it."""

    code: int


def send_request(connection: socket.socket, request: ForkRequest, streams: list[int]) -> None:
    """Sends the request with the worker's standard streams. Raises OSError.

    The request travels in a file, because an environment may be too large for one message.
    """
    file = os.memfd_create("fork-request")
    try:
        with open(file, "wb", closefd=False) as writing:
            writing.write(msgspec.msgpack.encode(request))
        socket.send_fds(connection, [b"\0"], [file, *streams])
    finally:
        os.close(file)


def receive_request(connection: socket.socket) -> tuple[ForkRequest, list[int]]:
    """Returns a request and the worker's standard streams, which the caller must close.

    Raises:
        OSError: no complete request arrived.
    """
    _, fds, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1 + _STREAMS)
    file, streams = fds[:1], fds[1:]
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as undo:
        closing.callback(_close, file)
        undo.callback(_close, streams)
        if len(streams) != _STREAMS:
            raise ConnectionError("the request came without its descriptors")
        with open(file[0], "rb", closefd=False) as reading:
            reading.seek(0)
            request: ForkRequest = _decode(reading.read(), ForkRequest)
        undo.pop_all()
    return request, streams


def send_answer(connection: socket.socket, answer: Forked | NotForked, pidfd: int | None = None) -> None:
    """Raises OSError if the client has gone."""
    socket.send_fds(connection, [msgspec.msgpack.encode(answer)], [] if pidfd is None else [pidfd])


def receive_answer(connection: socket.socket) -> tuple[int, int]:
    """Returns the worker's pid and a pidfd of it, which the caller must close.

    Raises:
        OSError: the fork server has ended or refused.
    """
    message, pidfds, _, _ = socket.recv_fds(connection, _MESSAGE_BYTES, 1)
    if not message:
        raise ConnectionResetError(errno.ECONNRESET, "the fork server ended")
    try:
        answer: Forked | NotForked = _decode(message, Forked | NotForked)
    except OSError:
        _close(pidfds)
        raise
    if isinstance(answer, NotForked):
        raise OSError(answer.errno, os.strerror(answer.errno))
    if not pidfds:
        raise OSError(errno.EMFILE, "no descriptor is free")
    return answer.pid, pidfds[0]


def send_end(connection: socket.socket, end: Exited) -> None:
    """Raises OSError if the client has gone."""
    connection.send(msgspec.msgpack.encode(end))


async def receive_end(connection: socket.socket) -> Exited | None:
    """Returns how the worker ended; None if the fork server ended first. Raises OSError."""
    message = await asyncio.get_running_loop().sock_recv(connection, _MESSAGE_BYTES)
    end: Exited | None = _decode(message, Exited) if message else None
    return end


def _decode(message: bytes, type: Any) -> Any:  # a Struct or a union of them
    try:
        return msgspec.msgpack.decode(message, type=type)
    except msgspec.DecodeError as error:
        raise OSError(errno.EBADMSG, "a message cannot be read") from error


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
