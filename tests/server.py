"""A real server in its own process, as a person starts it, and what tests ask of it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120.0


@dataclass
class RunningServer:
    """`boot_s` is the time from the start of the process to its first answer."""

    process: subprocess.Popen[bytes]
    url: str
    boot_s: float
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False)

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, json=body).raise_for_status().json()

    def chat(self, message: str, **fields: Any) -> Any:
        return self.post("/api/v1/chat", message=message, **({"temperature": 0} | fields))

    def worker_pids(self) -> list[int]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if child.name() == "llm-worker"]

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.http.get("/health/ready").status_code == 200, "the server to be ready")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(TIMEOUT_S)


def wait_for(condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Asks again and again; fails when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {what}"
        time.sleep(0.02)


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """The name and the data of each event of a stream."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def running_server(folder: Path, **environment: str) -> Iterator[RunningServer]:
    """`python -m app` in `folder`, on a free port, with only the given settings."""
    port = free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    given = {"LLM_PORT": str(port), "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(folder / "hub")}
    with (folder / "server.log").open("wb") as log:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=folder, env=clean | given | environment, stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{port}"
        server = RunningServer(process, url, boot_s=first_answer(process, url) - began)
        try:
            yield server
        finally:
            server.stop()


def first_answer(process: subprocess.Popen[bytes], url: str) -> float:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{url}/health", trust_env=False)
        except httpx.TransportError:
            time.sleep(0.01)
        else:
            return time.monotonic()
    raise AssertionError("the server did not answer")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
