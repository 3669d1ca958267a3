"""Starts the client as a process, as a user or a script does."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from app.cli.net.server import PROJECT

T = TypeVar("T")
TIMEOUT_S = 20.0
CLIENT = [sys.executable, str(PROJECT / "chat_cli.py")]


def client_environ(**changes: str) -> dict[str, str]:
    """The environment without what would change the client, such as the COLUMNS that pytest-xdist sets."""
    changing = ("LLM_", "CHAT_", "NO_COLOR", "COLUMNS", "LINES", "PYTHONUNBUFFERED")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return clean | {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "LANG": "C.UTF-8"} | changes


def piped(text: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLIENT, *arguments],
        input=text,
        env=client_environ(**changes),
        capture_output=True,
        text=True,
        timeout=30,
    )


def wait_until(condition: Callable[[], T]) -> T:
    """Waits until the condition returns a true value, and returns that value. Fails after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        os.sched_yield()
    return found


async def until(condition: Callable[[], object]) -> None:
    """Waits as `wait_until` does, but lets other tasks run."""

    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await asyncio.sleep(0)
