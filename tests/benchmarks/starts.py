"""Measures how long a server takes to start and to switch models.

`python -m tests.benchmarks.starts` prints the times of a cold start, a switch, and a restart after a crash.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil  # type: ignore[import-untyped]  # ships no types

from tests.benchmarks.folders import ensure
from tests.benchmarks.loads import Figures
from tests.benchmarks.shapes import GPT2, PARTNER
from tests.benchmarks.targets import ACTIVE_REQUESTS
from tests.server import RunningServer, running_server
from tests.waiting import wait_for

_BACK_AND_FORTH = 3


@contextmanager
def server(cache: Path, model_name: str, quantization: str) -> Iterator[RunningServer]:
    """Runs `python -m app` with the generated models."""
    settings = {
        "LLM_MODEL_NAME": model_name,
        "LLM_MODEL_CACHE_DIR": str(cache.resolve()),
        "LLM_MAX_ACTIVE_REQUESTS": str(ACTIVE_REQUESTS),
        "LLM_REQUEST_TIMEOUT": "600",
        "LLM_QUANTIZATION": quantization,
        "LLM_LOG_LEVEL": "WARNING",
        "HF_HUB_OFFLINE": "1",
    }
    with TemporaryDirectory() as folder, running_server(Path(folder), **settings) as running:
        yield running


def cold_start(cache: Path, model_name: str, quantization: str) -> Figures:
    """Seconds from the start of the process. The model's files are in the page cache already."""
    began = time.monotonic()
    with server(cache, model_name, quantization) as running:
        health_s = time.monotonic() - began
        running.wait_until_ready()
        ready_s = time.monotonic() - began
        running.chat("Hello", max_tokens=1)
        first_s = time.monotonic() - began
    return {"start.health": health_s, "start.ready": ready_s, "start.first": first_s}


def switch(running: RunningServer, model_name: str) -> Figures:
    """Seconds to switch to a model on disk, and to switch back to it while it is still loaded."""
    cold_s = _switched_s(running, model_name)
    backs_s = []
    for _ in range(_BACK_AND_FORTH):
        _switched_s(running, PARTNER.name)
        backs_s.append(_switched_s(running, model_name))
    return {"switch.cold": cold_s, "switch.back": median(backs_s)}


def _switched_s(running: RunningServer, model_name: str) -> float:
    began = time.monotonic()
    running.post("/api/v1/chat/switch-model", model_name=model_name)
    return time.monotonic() - began


@dataclass(frozen=True, slots=True)
class StartFigures:
    """One server: started, asked, switched to gpt2, its worker killed, asked again. Times in seconds."""

    first_token_s: float  # from the start of the server's process
    idle_bytes: int  # proportional set size of all processes after that
    switch_s: float
    restart_s: float  # from the death of the worker to the end of the next turn, of one token


def measure_start(cache: Path) -> StartFigures:
    began = time.monotonic()
    settings = {"LLM_MODEL_NAME": "builtin", "LLM_MODEL_CACHE_DIR": str(cache.resolve())}
    with TemporaryDirectory() as folder, running_server(Path(folder), **settings) as running:
        running.chat("Hello", max_tokens=1)
        first_token_s = time.monotonic() - began
        idle_bytes = _proportional_bytes(running)
        switch_s = _switched_s(running, GPT2.name)
        newest = max(_workers(running), key=lambda process: process.create_time())
        newest.kill()
        wait_for(lambda: running.http.get("/health/ready").status_code == 503, "the death to be noticed")
        began = time.monotonic()
        running.chat("Hello", max_tokens=1)
        return StartFigures(first_token_s, idle_bytes, switch_s, time.monotonic() - began)


def _workers(running: RunningServer) -> list[psutil.Process]:
    children = psutil.Process(running.process.pid).children(recursive=True)
    return [c for c in children if c.name() == "llm-worker" or "app.engine.worker" in c.cmdline()]


def _proportional_bytes(running: RunningServer) -> int:
    server = psutil.Process(running.process.pid)
    return sum(process.memory_full_info().pss for process in (server, *server.children(recursive=True)))


def main() -> None:
    """Prints the median and the range of each figure, over the rounds given as argument or five."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cache = Path.home() / ".cache" / "llm-server-benchmarks" / "full"
    ensure(GPT2, cache)
    figures = [measure_start(cache) for _ in range(rounds)]
    for field in fields(StartFigures):
        values = sorted(getattr(each, field.name) for each in figures)
        sys.stdout.write(f"{field.name}: {median(values):.4g} ({values[0]:.4g} to {values[-1]:.4g})\n")


if __name__ == "__main__":
    main()
