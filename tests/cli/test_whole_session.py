"""Whole sessions in a terminal, with a real server and models that need no network."""

import os
import signal
from pathlib import Path

from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import load_session, recent_sessions
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import RunningServer, free_port

NEAREST = "Did you mean llama3-1b, llama3-3b, smollm2-1.7b"


def test_session_survives_the_death_of_its_server(
    cache_with_tiny_gpt2: Path, shared_fork_server: Path
) -> None:
    environ = client_environ(
        LLM_PORT=str(free_port()),
        LLM_MODEL_NAME="builtin",
        LLM_MODEL_CACHE_DIR=str(cache_with_tiny_gpt2),
        LLM_FORK_SERVER=str(shared_fork_server),
    )
    with PseudoTerminal(CLIENT, environ, columns=100) as terminal:
        terminal.wait_for("No server is running")
        terminal.type("My name is Ann.\r")  # while the server is starting
        terminal.wait_for("Ann!")
        terminal.type("/switch gpt2\r")
        terminal.wait_for("✅ Successfully switched to gpt2")
        terminal.type("/set max_tokens 900\r")
        terminal.type("go on and on\r")
        terminal.wait_for_match(r"go on and on\nAssistant:\n[^…\s]")  # the status is followed by the reply
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.")
        terminal.type("/undo\r/switch builtin\r")
        terminal.wait_for("✅ Successfully switched to builtin")
        terminal.type("/set max_tokens default\r/save ann\r")
        terminal.wait_for("💾 Conversation saved to ann.json")
        _kill_server(terminal.process.pid)
        terminal.type("What is my name?\r")
        terminal.wait_for("The server has ended. Starting a new one.")
        terminal.wait_for("Press Enter to send your line again.")
        terminal.type("\r")
        terminal.wait_for("Restored 1 turn.")
        terminal.wait_for("Your name is Ann.")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
        assert "Traceback" not in terminal.text
    (kept,) = recent_sessions(sessions_folder())
    said = [message.content for message in load_session(kept.session_id, sessions_folder()).messages]
    assert said[0::2] == ["My name is Ann.", "What is my name?"]


def test_unknown_model_is_reported_with_the_three_nearest(server: RunningServer) -> None:
    reply = server.http.post("/api/v1/chat/switch-model", json={"model_name": "llama3-1.7b"})
    hint = reply.json()["error"]["hint"]
    assert (reply.status_code, hint.partition("?")[0]) == (404, NEAREST)
    with PseudoTerminal([*CLIENT, "--url", server.url], client_environ(), columns=200) as terminal:
        terminal.type("/switch llama3-1.7b\r")
        terminal.wait_for(f"❌ No model has that name.\n   {hint}")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0


def _kill_server(client: int) -> None:
    children = Path(f"/proc/{client}/task/{client}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
