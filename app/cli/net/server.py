"""Starts and stops the client's own server.

The server's standard input is a pipe from the client. It exits when the pipe closes, however the client ends.
"""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from app.cli.errors import ClientError, ServerDied, Unreachable
from app.cli.net.client import ChatClient
from app.cli.net.waiting import POLL_S
from app.cli.output.load_progress import wait_reason
from app.cli.output.progress_bar import Bar, ProgressUpdate
from app.cli.paths import private_file, state_folder
from app.models.schemas import HealthResponse

PROJECT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "app", "--exit-on-stdin-close")
START_TIMEOUT_S = 180.0  # until the server answers; loading a model may take longer
STOP_TIMEOUT_S = 12.0  # the server gives open answers ten seconds
MAX_LOG_BYTES = 5_000_000
SHOWN_LOG_LINES = 4
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def default_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Host and port from LLM_HOST and LLM_PORT, by default 127.0.0.1 and 8000.

    Raises:
        ClientError: LLM_PORT is not a port number.
    """
    host = environ.get("LLM_HOST") or "127.0.0.1"
    port = environ.get("LLM_PORT") or "8000"
    if not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise ClientError(
            f"LLM_PORT is {port!r}, which is not a port number.",
            "Set it to a number from 0 (any free port) to 65535.",
        )
    return _LOOPBACK.get(host, host), int(port)


def default_setting(environ: Mapping[str, str]) -> str:
    """Returns which variables name the default address; empty if none does."""
    return " and ".join(name for name in ("LLM_HOST", "LLM_PORT") if environ.get(name))


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def choose_port(host: str, preferred: int) -> int:
    """Returns the preferred port if it is free, otherwise any free port.

    Raises:
        ClientError: the host is not an address of this machine.
    """
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.create_server((host, port), family=_family(host)) as probe:
            return int(probe.getsockname()[1])
    raise ClientError(f"No port can be opened at {host}.", "Set LLM_HOST to an address of this machine.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def own_environment(host: str, port: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a server for this client.

    Only this machine reaches one on loopback, so any model may be named there, such as `./model.gguf`.
    """
    paths = filter(None, (str(PROJECT), environ.get("PYTHONPATH")))
    return {
        **environ,
        "LLM_ALLOW_ANY_MODEL": environ.get("LLM_ALLOW_ANY_MODEL") or str(_is_loopback(host)).lower(),
        "LLM_HOST": host,
        "LLM_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class OwnServer:
    """A server process in a process group of its own, so that Ctrl-C in the terminal does not reach it."""

    def __init__(
        self, host: str, port: int, environ: Mapping[str, str], command: tuple[str, ...] = COMMAND
    ) -> None:
        self.url = url_of(host, port)
        self.log = private_file(_truncated_if_large(state_folder() / "server.log"))
        self._environ = own_environment(host, port, environ)
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where the log of this run begins

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def ends_within(self, timeout_s: float) -> bool:
        """Waits until the process ends, at most `timeout_s`. Returns whether it has ended."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S / 10)
        return not self.is_alive

    def start(self) -> None:
        self.stop()
        self._log_start = self.log.stat().st_size
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    async def until_ready(
        self, client: ChatClient, bar: Bar, timeout_s: float = START_TIMEOUT_S
    ) -> HealthResponse:
        """Waits until the server can answer messages, or reports that its model failed.

        Raises:
            ServerDied: the process ended. The message has the end of the log.
            Unreachable: nothing has answered for `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        bar.show(ProgressUpdate("starting the server"))
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(Unreachable):
                health = await client.health()
                if health.status != "loading":
                    return health
                bar.show(wait_reason(health))
                deadline = time.monotonic() + timeout_s
            await asyncio.sleep(POLL_S / 2)
        raise Unreachable(f"The server did not answer within {timeout_s:.0f} s.", f"Log file: {self.log}")

    def stop(self) -> None:
        """Terminates the server, and kills it and its workers if it does not end in time."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def last_log_lines(self) -> list[str]:
        """Returns the last lines of this run's log, without the frames of tracebacks."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        unindented = [line for line in lines if line.strip() and not line[0].isspace()]
        return unindented[-SHOWN_LOG_LINES:]

    def _check_alive(self) -> None:
        if not self.is_alive:
            lines = "\n  ".join(self.last_log_lines()) or "Its log is empty."
            raise ServerDied(f"The server ended during start-up:\n  {lines}", f"Log file: {self.log}")


def _truncated_if_large(log: Path) -> Path:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_BYTES:
            os.truncate(log, 0)
    return log
