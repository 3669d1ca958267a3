"""Measures the whole server on the device: its start, a switch, and replies over HTTP."""

import asyncio
import sys
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks import loads, targets
from tests.benchmarks.plan import FULL
from tests.benchmarks.shapes import Shape
from tests.benchmarks.vocabulary import Words
from tests.gpu.engines import folder_of, shape_of
from tests.gpu.figures import Figures
from tests.gpu.speed import PROMPT_TOKENS, REPLY_TOKENS, parser
from tests.server import running_server

_PLAN = replace(FULL, tokens=REPLY_TOKENS, message_tokens=PROMPT_TOKENS, user_tokens=64)
_USERS = (8, 32)
_LOG_TAIL = 6000  # characters


def main() -> None:
    options = parser().parse_args()
    figures = Figures()
    shape = shape_of("llama3-1b", small=options.small)
    folder_of(shape, options.cache)
    settings = {
        "LLM_MODEL_CACHE_DIR": str(options.cache.resolve()),
        "LLM_DEVICE": options.device,
        "LLM_MAX_ACTIVE_REQUESTS": str(max(_USERS)),
        "LLM_REQUEST_TIMEOUT": "600",
    }
    for work in (_builtin, _measured):
        with TemporaryDirectory() as folder:
            try:
                work(Path(folder), settings, shape, figures)
            finally:
                sys.stdout.write((Path(folder) / "server.log").read_text()[-_LOG_TAIL:])


def _builtin(folder: Path, settings: dict[str, str], shape: Shape, figures: Figures) -> None:
    began = time.perf_counter()
    with running_server(folder, **settings, LLM_MODEL_NAME="builtin") as running:
        running.wait_until_ready()
        figures.add("built-in: start to ready, s", time.perf_counter() - began)
        figures.add("built-in: reply", running.chat("What is the capital of France?")["response"])
        began = time.perf_counter()
        running.post("/api/v1/chat/switch-model", model_name=shape.name)
        figures.add("switch to Llama 1B on disk, s", time.perf_counter() - began)
        running.chat("Hello", max_tokens=4)
        began = time.perf_counter()
        running.post("/api/v1/chat/switch-model", model_name="builtin")
        figures.add("switch back, ms", 1000 * (time.perf_counter() - began))
        figures.add("workers", len(running.worker_pids()))
        log = (folder / "server.log").read_text()
    figures.add(
        "warnings in the log", [line for line in log.splitlines() if "WARN" in line or "ERROR" in line][:10]
    )


def _measured(folder: Path, settings: dict[str, str], shape: Shape, figures: Figures) -> None:
    began = time.perf_counter()
    with running_server(folder, **settings, LLM_MODEL_NAME=shape.name) as running:
        running.wait_until_ready()
        figures.add("Llama 1B: start to ready, s", time.perf_counter() - began)
        running.chat("Hello", max_tokens=1)
        figures.add("Llama 1B: start to first token, s", time.perf_counter() - began)
        asyncio.run(_loads(running.url, shape, figures))


async def _loads(url: str, shape: Shape, figures: Figures) -> None:
    async with targets.connection(url) as http:
        target, words = targets.ServerTarget(http), Words(shape.vocabulary)
        messages = [words.message(_PLAN.message_tokens) for _ in range(3)]
        await _note(figures, "one stream", loads.single(target, _PLAN, messages))
        for count in _USERS:
            for _ in range(2):  # the first round captures graphs
                work = loads.together(target, _PLAN, words, shape.context_length, count)
                await _note(figures, f"{count} users", work)
        await _note(figures, "long", loads.long_prompt(target, _PLAN, words, shape.context_length))


async def _note(figures: Figures, name: str, work: Awaitable[loads.Figures]) -> None:
    for key, value in (await work).items():
        figures.add(f"HTTP, {name}, {key}", value)


if __name__ == "__main__":
    main()
