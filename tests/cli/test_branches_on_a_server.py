"""Branches and background turns with a real server, in a terminal."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.engine.remote.standin import StandInUpstream, piece, running_upstream, usage
from tests.forked_server import forked_server
from tests.server import RunningServer, free_port
from tests.test_remote_engine import settings_for
from tests.waiting import wait_for


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


@dataclass(frozen=True)
class Talkative:
    """A server whose answers go on until `upstream` is no longer endless."""

    server: RunningServer
    upstream: StandInUpstream


@pytest.fixture
def talkative(tmp_path: Path) -> Iterator[Talkative]:
    end = [piece("stop"), usage(9, 30)]
    upstream = StandInUpstream(
        model="builtin", chunks=[piece(content="on ")], is_endless=True, last_chunks=end
    )
    with running_upstream(upstream):
        with forked_server(tmp_path, **settings_for(tmp_path, upstream.url, FAR_KEY="any")) as server:
            server.wait_until_ready()
            yield Talkative(server, upstream)
        upstream.is_endless = False


def _killed_in_mid_answer(server: RunningServer) -> str:
    """The conversation of a client that was killed while the model answered."""
    with PseudoTerminal([*CLIENT, "--url", server.url], client_environ()) as terminal:
        terminal.wait_for("Type a message")
        terminal.type("go on and on\r")
        terminal.wait_for("on on on")
        wait_for(lambda: recent_sessions(sessions_folder()))
        terminal.process.kill()
        terminal.wait_for_end()
    (kept,) = recent_sessions(sessions_folder())
    assert kept.conversation_id is not None
    return kept.conversation_id


def _messages(server: RunningServer, conversation_id: str) -> list[dict[str, Any]]:  # Any: JSON
    found: list[dict[str, Any]] = server.get(f"/api/v1/chat/conversation/{conversation_id}")["messages"]
    return found


def test_next_client_shows_the_answer_that_a_killed_one_left(talkative: Talkative) -> None:
    command = [*CLIENT, "--url", talkative.server.url, "--resume"]
    conversation_id = _killed_in_mid_answer(talkative.server)
    with PseudoTerminal(command, client_environ(), rows=60) as terminal:
        terminal.wait_for("The server has gone on with it:")
        talkative.upstream.is_endless = False
        terminal.wait_for("tokens/s")
        terminal.type("/history 1\r")
        terminal.wait_for("Assistant:", times=2)
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    asked, answered = _messages(talkative.server, conversation_id)
    assert asked["content"] == "go on and on" and answered["finish_reason"] == "stop"


def test_ctrl_c_stops_a_background_turn(talkative: Talkative) -> None:
    command = [*CLIENT, "--url", talkative.server.url]
    with PseudoTerminal(command, client_environ(), rows=60) as terminal:
        terminal.wait_for("Type a message")
        terminal.type("go on and on\r")
        terminal.wait_for("on on on")
        terminal.type("\x03")
        terminal.wait_for("Stopped. /continue extends the answer.")
        wait_for(talkative.upstream.has_left.is_set, "the model to be stopped")
        terminal.type("/versions\r")
        terminal.wait_for("(interrupted)")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    (kept,) = recent_sessions(sessions_folder())
    (_, answered) = _messages(talkative.server, str(kept.conversation_id))
    assert answered["finish_reason"] == "interrupted" and answered["content"]
