"""Measures the whole server on the device: its start, a switch, and replies over HTTP."""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tests.benchmarks.shapes import Shape
from tests.benchmarks.vocabulary import Words
from tests.gpu.engines import folder_of, shape_of
from tests.gpu.figures import Figures
from tests.gpu.http_load import measure
from tests.gpu.speed import COUNTS, PROMPT_TOKENS, REPLY_TOKENS, parser
from tests.server import running_server

_LOG_TAIL = 6000  # characters


def main() -> None:
    options = parser().parse_args()
    figures = Figures()
    shape = shape_of(options.model, small=options.small)
    folder_of(shape, options.cache)
    settings = {
        "LLM_MODEL_CACHE_DIR": str(options.cache.resolve()),
        "LLM_DEVICE": options.device,
        "LLM_MAX_ACTIVE_REQUESTS": str(max(COUNTS)),
        "LLM_REQUEST_TIMEOUT": "600",
        "LLM_MODEL_NAME": "builtin",
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        try:
            _measure(folder, settings, shape, figures)
        finally:
            sys.stdout.write((folder / "server.log").read_text()[-_LOG_TAIL:])


def _measure(folder: Path, settings: dict[str, str], shape: Shape, figures: Figures) -> None:
    began = time.perf_counter()
    with running_server(folder, **settings) as running:
        running.wait_until_ready()
        figures.add("built-in: start to ready, s", time.perf_counter() - began)
        figures.add("built-in: reply", running.chat("What is the capital of France?")["response"])
        began = time.perf_counter()
        running.post("/api/v1/chat/switch-model", model_name=shape.name)
        figures.add(f"switch to {shape.name} on disk, s", time.perf_counter() - began)
        running.chat("Hello", max_tokens=4)
        for model_name in ("builtin", shape.name):
            began = time.perf_counter()
            running.post("/api/v1/chat/switch-model", model_name=model_name)
            figures.add(f"switch back to {model_name}, ms", 1000 * (time.perf_counter() - began))
        figures.add("workers", len(running.worker_pids()))
        port, words = urlsplit(running.url).port, Words(shape.vocabulary)
        assert port is not None
        for count in COUNTS:
            measure(port, words, count, 1, (PROMPT_TOKENS, REPLY_TOKENS))  # captures graphs
            for name, value in measure(port, words, count, 3, (PROMPT_TOKENS, REPLY_TOKENS)).items():
                figures.add(f"HTTP, {count} users, {name}", value)
    log = (folder / "server.log").read_text().splitlines()
    figures.add("warnings in the log", [line for line in log if "WARN" in line or "ERROR" in line][:10])


if __name__ == "__main__":
    main()
