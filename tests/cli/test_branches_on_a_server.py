"""Branches and background turns with a real server, in a terminal."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import RunningServer, free_port, running_server
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def gpt2_server(
    tmp_path_factory: pytest.TempPathFactory, cache_with_tiny_gpt2: Path, shared_fork_server: Path
) -> Iterator[RunningServer]:
    """A server whose model gives long answers."""
    settings = {
        "LLM_MODEL_NAME": "gpt2",
        "LLM_MODEL_CACHE_DIR": str(cache_with_tiny_gpt2),
        "LLM_FORK_SERVER": str(shared_fork_server),
        "LLM_WORKER_TIMEOUT": "3600",  # tests stop its worker
    }
    with running_server(tmp_path_factory.mktemp("server"), **settings) as running:
        running.wait_until_ready()
        yield running


def _kill_server(client: int) -> None:
    children = Path(f"/proc/{client}/task/{client}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_versions_survive_the_death_of_a_server_with_a_database(
    cache_with_tiny_gpt2: Path, shared_fork_server: Path, tmp_path: Path
) -> None:
    environ = client_environ(
        LLM_PORT=str(free_port()),
        LLM_MODEL_NAME="builtin",
        LLM_MODEL_CACHE_DIR=str(cache_with_tiny_gpt2),
        LLM_FORK_SERVER=str(shared_fork_server),
        LLM_DATABASE_URL=f"sqlite:///{tmp_path}/conversations.db",
    )
    with PseudoTerminal(CLIENT, environ, columns=100, rows=50) as terminal:
        terminal.type("My name is Ann.\r")
        terminal.wait_for("Ann!")
        terminal.wait_for("You:", times=2)
        _kill_server(terminal.process.pid)
        terminal.type("/retry\r")
        terminal.wait_for("Press Enter to send your line again.")
        terminal.type("\r")
        terminal.wait_for("Version 2.")
        terminal.type("/retry temperature=1.2\r")
        terminal.wait_for("Version 3.")
        terminal.type("/versions\r")
        terminal.wait_for("* 3  builtin")
        terminal.type("/version 1\r")
        terminal.wait_for("Assistant (1 of 3):")
        terminal.type("What is my name?\r")
        terminal.wait_for("Your name is Ann.")
        terminal.type("/branch\r")
        terminal.wait_for("← here")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert "Restored" not in terminal.text and "❌ This is a bug" not in terminal.text
    with PseudoTerminal([*CLIENT, "--resume"], environ, columns=100, rows=50) as terminal:
        terminal.wait_for('Loaded "My name is Ann." with 2 turns.')
        terminal.type("/branch 1\r/branch\r")
        terminal.wait_for("6 │ builtin: Your name is Ann.")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0


@contextmanager
def _paused_workers() -> Iterator[None]:
    """Stops the workers of this process's servers, whose answers would otherwise end in a second or two."""
    workers = [child for child in psutil.Process().children(recursive=True) if child.name() == "llm-worker"]
    assert workers
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def _killed_in_mid_answer(server: RunningServer, paused: ExitStack) -> str:
    """The conversation of a client that was killed while gpt2 answered, which is paused at its beginning."""
    with PseudoTerminal([*CLIENT, "--url", server.url], client_environ()) as terminal:
        terminal.wait_for("Type a message")
        terminal.type("/set max_tokens 900\r/set min_tokens 890\rgo on and on\r")
        terminal.wait_for("Assistant:")
        paused.enter_context(_paused_workers())
        wait_for(lambda: recent_sessions(sessions_folder()))
        terminal.process.kill()
        terminal.wait_for_end()
    (kept,) = recent_sessions(sessions_folder())
    assert kept.conversation_id is not None
    return kept.conversation_id


def _messages(server: RunningServer, conversation_id: str) -> list[dict[str, Any]]:  # Any: JSON
    found: list[dict[str, Any]] = server.get(f"/api/v1/chat/conversation/{conversation_id}")["messages"]
    return found


def test_next_client_shows_the_answer_that_a_killed_one_left(gpt2_server: RunningServer) -> None:
    command = [*CLIENT, "--url", gpt2_server.url, "--resume"]
    with ExitStack() as paused:
        conversation_id = _killed_in_mid_answer(gpt2_server, paused)
        with PseudoTerminal(command, client_environ(), rows=60) as terminal:
            terminal.wait_for("The server has gone on with it:")
            paused.close()
            terminal.wait_for("tokens/s")
            terminal.type("/history 1\r")
            terminal.wait_for("Assistant:", times=2)
            terminal.type("/quit\r")
            assert terminal.wait_for_end() == 0
    asked, answered = _messages(gpt2_server, conversation_id)
    assert asked["content"] == "go on and on" and answered["finish_reason"] in ("stop", "length")


def test_ctrl_c_stops_a_background_turn(gpt2_server: RunningServer) -> None:
    command = [*CLIENT, "--url", gpt2_server.url]
    with PseudoTerminal(command, client_environ(), rows=60) as terminal:
        terminal.wait_for("Type a message")
        terminal.type("/set max_tokens 900\r/set min_tokens 890\rgo on and on\r")
        terminal.wait_for("Assistant:")
        terminal.wait_for_more()
        with _paused_workers():
            terminal.type("\x03")
            terminal.wait_for("Stopped. /continue extends the answer.")
        terminal.type("/versions\r")
        terminal.wait_for("(interrupted)")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    (kept,) = recent_sessions(sessions_folder())
    (_, answered) = _messages(gpt2_server, str(kept.conversation_id))
    assert answered["finish_reason"] == "interrupted" and answered["content"]
