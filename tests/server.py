"""Starts a real server in a process of its own, and sends it requests."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types

from tests.http_options import LOCAL
from tests.waiting import LIMIT_S, wait_for

ROOT = Path(__file__).resolve().parents[1]
# Settings of a server that runs no model itself: it starts no fork server, which would import torch.
NO_WORKERS = {"LLM_FORK_SERVER": "/nonexistent"}


class ServerProcess(Protocol):
    """What tests use of a process of subprocess."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> object: ...

    def poll(self) -> int | None: ...

    def send_signal(self, number: signal.Signals, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Start = Callable[[Sequence[str], Path, Mapping[str, str], Path], ServerProcess]


@dataclass
class RunningServer:
    """A server process, and a client for it."""

    process: ServerProcess
    url: str
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, **LOCAL)

    def get(self, path: str) -> Any:  # Any: a JSON document
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:  # Any: JSON documents
        return self.http.post(path, json=body).raise_for_status().json()

    def chat(self, message: str, **fields: Any) -> Any:  # Any: JSON documents
        """The reply to the message, greedy unless `fields` say otherwise."""
        return self.post("/api/v1/chat", message=message, **({"temperature": 0} | fields))

    def worker_pids(self) -> list[int]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if child.name() == "llm-worker"]

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.http.get("/health/ready").status_code == 200, "the server to be ready")

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        self.process.wait(LIMIT_S)


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:  # Any: JSON documents
    """The name and the data of each server-sent event."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def running_server(
    folder: Path, *, command: Sequence[str] = ("app",), **environment: str
) -> Iterator[RunningServer]:
    """Runs `python -m app` in `folder`, with no other settings than those given and, by default, a free port.

    `command` names another module that serves, and its arguments. Its log is `server.log` in that folder.
    """
    with serving(_spawned, folder, command, environment) as server:
        yield server


@contextmanager
def serving(
    start: Start, folder: Path, command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[RunningServer]:
    """The same, in a process that `start` starts."""
    port = int(environment.get("LLM_PORT") or free_port())
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    defaults = {
        "LLM_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LLM_FIND_LOCAL_MODELS": "false",
        "HF_HUB_CACHE": str(folder / "hub"),
    }
    process = start(command, folder, {**inherited, **defaults, **environment}, folder / "server.log")
    server = RunningServer(process, f"http://127.0.0.1:{port}")
    try:
        wait_until_answering(process, server.url)
        yield server
    finally:
        server.stop()


def _spawned(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=output, stderr=output
        )


def wait_until_answering(process: ServerProcess, url: str) -> None:
    """Returns when the server answers. Fails if its process ends first."""

    def is_answering() -> bool:
        assert process.poll() is None, f"the server ended with status {process.returncode}"
        try:
            httpx.get(f"{url}/health", **LOCAL)  # no TLS here; its context is slow
        except httpx.TransportError:
            return False
        return True

    wait_for(is_answering, "the server to answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
