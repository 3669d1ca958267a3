"""Starts the client as a process, as a user or a script does."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from app.cli.net.server import PROJECT

T = TypeVar("T")
CLIENT = [sys.executable, str(PROJECT / "chat_cli.py")]


def client_environ(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "NO_COLOR"))}
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
    deadline = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < deadline
        os.sched_yield()
    return found
