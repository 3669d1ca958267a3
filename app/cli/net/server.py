"""Owns the server that the client starts for itself, from finding an address to its end.

The server holds the other end of a pipe: it ends when the client does, however that ends.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from app.cli.errors import ClientError, Unreachable
from app.cli.net.client import ChatClient
from app.cli.output.load_progress import POLL_S, waiting_for
from app.cli.output.terminal import Bar, Step
from app.cli.paths import private_file, state_folder
from app.models.schemas import HealthResponse

PROJECT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "app", "--exit-on-stdin-close")
START_TIMEOUT_S = 60.0  # until it answers at all; a model may take longer
STOP_GRACE_S = 12.0  # open answers get ten to end
MAX_LOG_BYTES = 5_000_000
SHOWN_LOG_LINES = 4
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ServerDied(ClientError):
    pass


def default_address(environ: Mapping[str, str]) -> tuple[str, int]:
    """Where a server would be: LLM_HOST and LLM_PORT, or 127.0.0.1:8000."""
    host = environ.get("LLM_HOST") or "127.0.0.1"
    port = environ.get("LLM_PORT") or "8000"
    if not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise ClientError(
            f"LLM_PORT is {port!r}, which is no port.", "Set it to a number from 0, any free one, to 65535."
        )
    return _ANYWHERE.get(host, host), int(port)


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def port_for_own(host: str, wanted: int) -> int:
    """The wanted port if nobody has it, or else a free one."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((host, port), family=_family(host)) as probe:
            return int(probe.getsockname()[1])
    raise ClientError(f"No port can be opened at {host}.", "Set LLM_HOST to an address of this machine.")


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class OwnServer:
    """A server process in a group of its own, which Ctrl-C in the terminal does not reach."""

    def __init__(
        self, host: str, port: int, environ: Mapping[str, str], command: tuple[str, ...] = COMMAND
    ) -> None:
        self.url = url_of(host, port)
        self.log = private_file(_emptied_if_large(state_folder() / "server.log"))
        paths = filter(None, (str(PROJECT), environ.get("PYTHONPATH")))
        self._environ = {
            **environ,
            "LLM_HOST": host,
            "LLM_PORT": str(port),
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
        }
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begins = 0

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def ends_within(self, patience_s: float) -> bool:
        """Whether it has ended, or does so within `patience_s` seconds."""
        deadline = time.monotonic() + patience_s
        while self.is_alive and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S / 10)
        return not self.is_alive

    def start(self) -> None:
        self.stop()
        self._log_begins = self.log.stat().st_size
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    async def until_ready(self, client: ChatClient, bar: Bar) -> HealthResponse:
        """Waits until it can answer, or has said why it cannot.

        Raises:
            ServerDied: with the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        bar.show(Step("starting the server"))
        while time.monotonic() < deadline:
            self._check_alive()
            with contextlib.suppress(Unreachable):
                health = await client.health()
                if health.status != "loading":
                    return health
                bar.show(waiting_for(health))
                deadline = time.monotonic() + START_TIMEOUT_S
            await asyncio.sleep(POLL_S / 2)
        raise ServerDied(f"The server did not answer within {START_TIMEOUT_S:.0f} s.", f"Its log: {self.log}")

    def stop(self) -> None:
        """Asks it to end, and ends it when it does not; its worker processes with it."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def last_words(self) -> list[str]:
        """The last lines of this run's log that say what happened: no frames of a traceback."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            lines = log.read().decode(errors="replace").splitlines()
        telling = [line for line in lines if line.strip() and not line[0].isspace()]
        return telling[-SHOWN_LOG_LINES:]

    def _check_alive(self) -> None:
        if not self.is_alive:
            words = "\n  ".join(self.last_words()) or "It said nothing."
            raise ServerDied(f"The server ended while it started:\n  {words}", f"Its whole log: {self.log}")


def _emptied_if_large(log: Path) -> Path:
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > MAX_LOG_BYTES:
            os.truncate(log, 0)
    return log
