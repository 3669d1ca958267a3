"""Measures how long a server takes to start and to switch models."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.benchmarks.loads import Figures
from tests.benchmarks.shapes import PARTNER
from tests.benchmarks.targets import ACTIVE_REQUESTS
from tests.server import RunningServer, running_server

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
