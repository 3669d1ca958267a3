"""`python -m app.status`: once, live in a terminal, and without a server."""

import os
import subprocess
import sys
from pathlib import Path

from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import ROOT, RunningServer, free_port

COMMAND = [sys.executable, "-m", "app.status"]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "CHAT_"))}
ENVIRON |= {"PYTHONPATH": str(ROOT)}


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRON, capture_output=True, text=True, timeout=60
    )


def test_once_prints_the_models_of_the_server(server: RunningServer, tmp_path: Path) -> None:
    server.chat("Hello", max_tokens=4)
    done = run(tmp_path, "--url", server.url, "--once")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("builtin ")]
    assert " loaded " in line


def test_terminal_shows_a_failure_and_ends_with_ctrl_c(server: RunningServer, tmp_path: Path) -> None:
    command = [*COMMAND, "--url", server.url, "--interval", "0.1"]
    with PseudoTerminal(
        command, ENVIRON | {"TERM": "xterm-256color"}, columns=120, folder=tmp_path
    ) as terminal:
        terminal.wait_for("tokens/s")
        server.http.post("/api/v1/generate", json={"prompt": "much too long " * 2000})
        terminal.wait_for("context_length_exceeded")
        terminal.type("\x03")
        assert terminal.wait_for_end() == 0


def test_no_server_is_one_sentence(tmp_path: Path) -> None:
    done = run(tmp_path, "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
