"""Runs the fork server: a process that has imported torch and transformers, and forks workers on request.

`python -m app.engine.ipc.forking.fork_server FD` accepts one connection for each worker on the socket FD.
Its owner keeps its standard input open; the fork server exits when that ends.
"""

import contextlib
import errno
import gc
import importlib
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from app.core.machine import name_process
from app.core.telemetry.logging import configure
from app.engine.ipc.forking.fork_messages import (
    Exited,
    Forked,
    ForkRequest,
    NotForked,
    receive_request,
    send_answer,
    send_end,
)
from app.engine.ipc.forking.owner import ends_with

_log = logging.getLogger("app.engine.ipc.forking.fork_server")  # __name__ is __main__ here

REFUSED = 3  # exit status: this process cannot fork safely
_TIMEOUT_S = 5.0  # for a request to arrive on a new connection
_ARCHITECTURES = ("gemma2", "gemma3", "gpt2", "llama", "mistral", "qwen2", "qwen3")
_PRELOADED = (
    "app.engine.startup",
    "app.engine.worker",
    *(f"transformers.models.{name}.modeling_{name}" for name in _ARCHITECTURES),
)


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the owner acts on it
    configure("INFO", "json" if sys.argv[2:] == ["json"] else "text")
    name_process("llm-fork-server")
    listening = socket.socket(fileno=int(sys.argv[1]))
    path, owner = Path(listening.getsockname()), sys.stdin.fileno()
    with ends_with(owner, partial(_remove_socket, path)):
        _preload()
    try:
        request = ForkLoop(listening, owner).run()
    except UnsafeToFork as error:
        _log.warning("workers are started without forking: %s", error)
        return REFUSED
    if request is None:  # the owner has closed this process's standard input, or is dead
        _remove_socket(path)
        return 0
    _run_worker_and_exit(request)


class UnsafeToFork(Exception):
    """A fork would copy locks that other threads hold, or a CUDA context, which no child can use."""


def _remove_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def _preload() -> None:
    """Imports the libraries without garbage collection, which would take a quarter of the time."""
    gc.disable()
    for name in _PRELOADED:
        with contextlib.suppress(ModuleNotFoundError):  # an architecture that this transformers lacks
            importlib.import_module(name)
    gc.freeze()  # a collection in a worker would otherwise copy every page that it shares with this process
    gc.enable()


def fork_safely() -> int:
    """Returns what os.fork returns.

    Raises:
        OSError: the system has no room for another process.
        UnsafeToFork
    """
    check_that_forking_is_safe()
    return os.fork()


class ForkLoop:
    """Forks children and reports how they end, in a single thread.

    It accepts connections from `listening`, until the descriptor `owner` can be read.
    """

    def __init__(self, listening: socket.socket, owner: int, fork: Callable[[], int] = fork_safely) -> None:
        self._listening = listening
        self._owner = owner
        self._fork = fork
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._selector.register(owner, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # pidfd: pid and connection

    def run(self) -> ForkRequest | None:
        """Returns a request in each child, and None in the server when its owner is gone.

        Raises:
            UnsafeToFork
        """
        while True:
            for fd in self._ready():
                if fd == self._owner:
                    return None
                if fd != self._listening.fileno():
                    self._report_end(fd)
                elif (request := self._accept()) is not None:
                    return request

    def _ready(self) -> Iterator[int]:
        for key, _ in self._selector.select():
            yield key.fd

    def _accept(self) -> ForkRequest | None:
        """Handles the next connection: forks, and returns the request in the child, None in the server."""
        connection, _ = self._listening.accept()
        connection.settimeout(_TIMEOUT_S)
        try:
            request, streams = receive_request(connection)
        except OSError:  # the client has gone
            connection.close()
            return None
        connection.setblocking(False)  # the loop must not wait for a client
        if self._is_forked_child(connection):
            self._leave_to_parent()
            _take_streams(streams)
            return request
        for stream in streams:
            os.close(stream)
        return None

    def _is_forked_child(self, connection: socket.socket) -> bool:
        """Forks, if the client still waits for it. Returns True in the child, and False in the server."""
        try:
            pid = None if _is_closed(connection) else self._fork()
        except OSError as error:
            _log.warning("the fork server could not fork: %s", error.strerror)
            with contextlib.suppress(OSError):
                send_answer(connection, NotForked(error.errno or errno.EAGAIN))
            pid = None
        if pid:
            self._adopt(pid, connection)
        else:
            connection.close()
        return pid == 0

    def _adopt(self, pid: int, connection: socket.socket) -> None:
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, connection
        self._selector.register(pidfd, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # without its client the worker ends by itself
            send_answer(connection, Forked(pid), pidfd)

    def _report_end(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        pid, connection = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            send_end(connection, Exited(os.waitstatus_to_exitcode(status)))
        connection.close()

    def _leave_to_parent(self) -> None:
        """Closes the child's copies of the server's descriptors."""
        self._selector.close()
        self._listening.close()
        for pidfd, (_, connection) in self._children.items():
            os.close(pidfd)
            connection.close()


def check_that_forking_is_safe() -> None:
    """Raises UnsafeToFork if this process has several threads or has used CUDA."""
    import torch

    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise UnsafeToFork(f"the fork server has {threads} threads")
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise UnsafeToFork("the fork server has used CUDA")


def _is_closed(connection: socket.socket) -> bool:
    """Returns whether the peer has closed the non-blocking connection, perhaps to cancel a load."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _take_streams(streams: list[int]) -> None:
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)


def _run_worker_and_exit(request: ForkRequest) -> NoReturn:
    """Runs the worker and ends its process as a forked child should end.

    Exit handlers and the destructors of libraries belong to the fork server; torch's may abort the child.
    """
    code = 1
    try:
        code = _run_worker(request)
    except Exception:  # the process's root
        _log.exception("the worker failed")
    finally:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run_worker(request: ForkRequest) -> int:
    import torch

    from app.engine.worker import run

    os.environ.clear()
    os.environb.update(request.environment)
    os.chdir(request.folder)
    torch.seed()  # the fork itself seeds Python's own generator again
    return run(os.fsdecode(request.address))


if __name__ == "__main__":
    sys.exit(main())
