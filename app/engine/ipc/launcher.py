"""Starts worker processes: forks them from a process that has imported torch, or else spawns them."""

import asyncio
import errno
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from app.core.literals import LogFormat
from app.engine.ipc.child_process import (
    FIRST_FORK_TIMEOUT_S,
    ChildProcess,
    ForkedProcess,
    SpawnedProcess,
    until_readable,
    worker_environment,
)
from app.engine.ipc.forking.fork_server import REFUSED
from app.engine.ipc.socket_folder import FORK_SERVER, SocketFolder

logger = logging.getLogger(__name__)

_FORK_TIMEOUT_S = 5.0  # for a fork server that has forked before
_LONG_LIFE_S = 60.0
_LONGEST_PAUSE_S = 60.0  # before another fork server is started
_SHORTAGES = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # no fault of the fork server


# Libraries that start threads when they are imported: OpenBLAS, and pyarrow, which scikit-learn brings along.
WITHOUT_THREADS = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


class ForkServer:
    """The process from which workers are forked: see the module fork_server. The owner must call `close`.

    It is bound to no event loop. Launchers in other processes may use it as well, by its `path`.
    """

    def __init__(self, log_format: LogFormat = "text") -> None:
        self._folder = SocketFolder()
        self.path = self._folder.path / FORK_SERVER
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(self.path))
            listening.listen()  # requests may wait here until the imports are done
            fd = listening.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.engine.ipc.forking.fork_server", str(fd), log_format],
                stdin=subprocess.PIPE,
                pass_fds=[fd],
                env=worker_environment() | WITHOUT_THREADS,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def has_refused(self) -> bool:
        return self._process.poll() == REFUSED

    async def wait(self) -> None:
        """Returns when the process has ended and is reaped."""
        if self.is_alive:
            pidfd = os.pidfd_open(self.pid)
            try:
                await until_readable(pidfd)
            finally:
                os.close(pidfd)
            self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the fork server. Workers keep running, but their exit status is lost. May be called again."""
        self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._folder.close()


class WorkerLauncher:
    """Starts workers, with a fork server of its own. The owner must call `close`.

    `shared` is the path of another owner's fork server, to use instead of its own.
    """

    def __init__(self, shared: Path | None = None, log_format: LogFormat = "text") -> None:
        self._shared = shared
        self._log_format = log_format
        self._server: ForkServer | None = None
        self._may_fork = sys.platform == "linux"  # elsewhere system libraries break in forked processes
        self._has_forked = False  # with the present fork server

    @property
    def fork_server(self) -> ForkServer | None:
        """The launcher's own fork server, if it has started one."""
        return self._server

    def start(self) -> None:
        """Starts the fork server, or a new one if it has ended, without waiting for the imports."""
        if not self._may_fork or self._shared is not None:
            return
        if self._server is not None and not self._server.is_alive:
            self._may_fork = not self._server.has_refused
            self.close()
        if self._server is None and self._may_fork:
            try:
                self._server = ForkServer(self._log_format)
            except OSError as error:
                logger.warning("the fork server could not be started: %s", error.strerror)

    async def keep_fork_server(self) -> None:
        """Replaces the fork server when it ends, until this is cancelled or forking is given up.

        A fork server that ends soon is replaced after a pause, which grows.
        """
        pause_s = 0.0
        while self._fork_server_path() is not None and (server := self._server) is not None:
            started = time.monotonic()
            await server.wait()
            lived_long = time.monotonic() - started > _LONG_LIFE_S
            pause_s = 0.0 if lived_long else min(1.0 + 2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def launch(self, address: str, life_line: socket.socket) -> ChildProcess:
        """Returns a process with a worker that connects to `address` and exits when `life_line` ends.

        Raises:
            OSError: the machine has no room for another process.
        """
        while (path := self._fork_server_path()) is not None:
            server = self._server
            try:
                timeout_s = _FORK_TIMEOUT_S if self._has_forked else FIRST_FORK_TIMEOUT_S
                process = await ForkedProcess.start(path, address, life_line, timeout_s)
            except OSError as error:
                logger.warning("a worker could not be forked%s: %s", self._described_setting(), error)
                if error.errno in _SHORTAGES:
                    break
                if server is self._server:  # otherwise another launch has replaced it meanwhile
                    self._give_up_server()
            else:
                self._has_forked = True
                return process
        return await SpawnedProcess.start(address, life_line)

    def _give_up_server(self) -> None:
        """Ends a fork server that fails. Another one is started only if this one has worked before."""
        self._may_fork = self._has_forked and self._shared is None
        self.close()

    def _described_setting(self) -> str:
        return "" if self._shared is None else f" by LLM_FORK_SERVER={self._shared}"

    def _fork_server_path(self) -> Path | None:
        self.start()
        if not self._may_fork or self._shared is not None:
            return self._shared if self._may_fork else None
        return None if self._server is None else self._server.path

    def close(self) -> None:
        """Ends the launcher's own fork server. May be called again."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._has_forked = False
