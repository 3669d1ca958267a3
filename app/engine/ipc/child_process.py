"""The operating-system process of one worker, spawned or forked."""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Protocol

import psutil  # type: ignore[import-untyped]  # ships no types

from app.engine.ipc.forking.fork_messages import ForkRequest, receive_answer, receive_end, send_request

_SETTINGS = ("LLM_API_KEY", "LLM_API_KEYS", "LLM_DATABASE_URL", "LLM_HF_TOKEN")
SECRETS = (*_SETTINGS, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # in any case
FIRST_FORK_TIMEOUT_S = 120.0  # the fork server imports torch first, perhaps from a slow disk
_STATUS_TIMEOUT_S = 2.0  # for the fork server to report the status of a worker that has ended
_SPINS = {"GOMP_SPINCOUNT": "8000"}  # 0.1 ms where a pause of the processor is short, 0.4 ms elsewhere


class ChildProcess(Protocol):
    """A worker's process. The caller that starts it must await `wait`."""

    @property
    def pid(self) -> int: ...

    @property
    def is_alive(self) -> bool: ...

    @property
    def exit_code(self) -> int | None:
        """The exit status, or minus the signal that ended the process; None while it runs, or if unknown."""

    def kill(self) -> None: ...

    async def wait(self) -> None:
        """Returns when the process has ended."""


class SpawnedProcess:
    """A ChildProcess with a new Python interpreter, which imports everything itself."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, address: str, life_line: socket.socket) -> "SpawnedProcess":
        command = (sys.executable, "-m", "app.engine.worker", address)
        return cls(
            await asyncio.create_subprocess_exec(*command, stdin=life_line.fileno(), env=worker_environment())
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def kill(self) -> None:
        if self.is_alive:
            self._process.kill()

    async def wait(self) -> None:
        await self._process.wait()


class ForkedProcess:
    """A ChildProcess made by a fork server, which also reports its exit status."""

    def __init__(self, pid: int, pidfd: int, connection: socket.socket) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self._pidfd = pidfd
        self._connection = connection
        self._has_ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._note_end)
        self._end = asyncio.create_task(self._await_end(), name=f"end of process {pid}")

    @classmethod
    async def start(
        cls, server: Path, address: str, life_line: socket.socket, timeout_s: float = FIRST_FORK_TIMEOUT_S
    ) -> "ForkedProcess":
        """Raises OSError if the fork server is not running, does not answer, or refuses to fork."""
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            connection = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            connection.setblocking(False)
            try:
                async with asyncio.timeout(timeout_s):
                    await loop.sock_connect(connection, str(server))
                    send_request(connection, _request(address), [life_line.fileno(), 1, 2])
                    await until_readable(connection)
            except TimeoutError:
                message = f"the fork server did not answer within {timeout_s:g} s"
                raise TimeoutError(errno.ETIMEDOUT, message) from None
            process = cls(*receive_answer(connection), connection)
            undo.pop_all()
        return process

    @property
    def is_alive(self) -> bool:
        return not (self._has_ended.is_set() or self._end.done())

    def kill(self) -> None:
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        await asyncio.shield(self._end)

    def _note_end(self) -> None:
        self._loop.remove_reader(self._pidfd)  # it stays readable, and would wake the loop again and again
        self._has_ended.set()

    async def _await_end(self) -> None:
        try:
            await self._has_ended.wait()
            self.exit_code = await self._reported_status()
        finally:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._connection.close()

    async def _reported_status(self) -> int | None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_STATUS_TIMEOUT_S):
                end = await receive_end(self._connection)
            return None if end is None else end.code
        return None


def _request(address: str) -> ForkRequest:
    environment = {os.fsencode(name): os.fsencode(value) for name, value in worker_environment().items()}
    return ForkRequest(os.fsencode(address), environment, os.getcwdb())


async def until_readable(connection: socket.socket | int) -> None:
    """Waits until the socket or descriptor can be read."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)


def is_stopped(pid: int) -> bool:
    """Returns whether a signal such as SIGSTOP keeps the process from running."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def worker_environment() -> dict[str, str]:
    """Returns this process's environment without secrets, set offline, and with `app` importable."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    fixed = {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": path,
        # Products that oneDNN has compiled, half a megabyte each; by default, 1,024 in either cache.
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256"),
        "LRU_CACHE_CAPACITY": os.environ.get("LRU_CACHE_CAPACITY", "256"),  # the cache of torch's wrapper
    }
    own = {name: value for name, value in os.environ.items() if name.upper() not in SECRETS}
    return own | fixed | _waiting(own)


def _waiting(environment: dict[str, str]) -> dict[str, str]:
    """Returns how torch's threads wait for the next product, unless the environment says so already.

    Threads that spin for long starve other programs, and those that sleep at once take longer to wake up than
    many products take. GNU's runtime spins a given number of times; others follow the policy.
    """
    if "OMP_WAIT_POLICY" in environment:
        return {}
    return {"OMP_WAIT_POLICY": "PASSIVE"} | ({} if "GOMP_SPINCOUNT" in environment else _SPINS)
