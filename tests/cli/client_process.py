"""Starts the client as a process, as a user or a script does."""

import os
import subprocess
import sys

from app.cli.net.server import PROJECT
from tests.waiting import LIMIT_S

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
        timeout=LIMIT_S,
    )
