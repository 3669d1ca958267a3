"""Turns outlive their connection, but not the user's wish to end them."""

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.cli.conversation.session import Session
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from app.models.schemas import LoadProgress
from tests.cli.client_process import CLIENT, client_environ, piped
from tests.cli.conftest import Seen, Steps, Talk, interrupted, typed
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.http_options import LOCAL
from tests.waiting import LIMIT_S, until, wait_for


def _kinds(standin: StandIn) -> list[str]:
    return [kind for kind, _ in standin.requests]


def test_broken_answer_is_picked_up_where_it_stopped(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.cuts = [4, 0]
    session = talk("hello there", "/retry")
    assert seen.answers == "You said: hello there\n" * 2
    assert session.transcript.messages[-1].content == "You said: hello there" and not session.was_cut
    assert "The connection was lost. Connecting again (1)..." in seen.messages
    assert seen.messages.count("picked up where it had stopped") == 1
    assert _kinds(standin) == ["chat", "events", "events", "regenerate"]


def test_requests_name_their_conversation_from_its_first_turn_on(
    talk: Talk, seen: Seen, standin: StandIn
) -> None:
    standin.cuts = [4]
    talk("hello there", "/undo", interrupted("hang on", seen))
    chosen, *_ = standin.sessions
    assert re.fullmatch("conv_[0-9a-f]{32}", chosen)
    # The server has drawn another id. The rest of the broken stream is where its beginning was.
    assert _kinds(standin) == ["chat", "events", "chat", "stop"]
    assert standin.sessions[:3] == [chosen, chosen, "conv_1"]
    assert set(standin.sessions[3:]) == {"conv_1"}


def test_conversations_have_different_sessions(talk: Talk, standin: StandIn) -> None:
    talk("hello", "/new", "hello again")
    chosen = [session for session in standin.sessions if len(session) > 10]
    assert len(chosen) == len(set(chosen)) == 2


def test_ctrl_c_stops_the_turn_on_the_server(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(interrupted("hang on", seen), "/history")
    assert _kinds(standin) == ["chat", "stop"]
    assert standin.conversations["conv_1"].branch[-1].finish_reason == "interrupted"
    assert session.transcript.messages[-1].finish_reason == "interrupted"


def test_ctrl_c_before_the_answer_leaves_no_turn_behind(talk: Talk, standin: StandIn) -> None:
    async def stop_while_loading(session: Session) -> None:
        interrupts = Interrupts()
        standin.loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
        running = asyncio.create_task(interrupts.run(session.send("hello")))
        await until(lambda: standin.logs)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running
        (log,) = standin.logs.values()
        await until(log.task.done)
        standin.loading = None

    talk(stop_while_loading, "again")
    assert standin.conversations["conv_2"].texts == ["again", "You said: again"]
    assert not standin.conversations["conv_1"].messages


def test_turn_that_is_stopped_while_the_model_thinks_is_no_turn_of_another_client(
    talk: Talk, seen: Seen, standin: StandIn
) -> None:
    async def stop_while_thinking(session: Session) -> None:
        interrupts, standin.pause_after = Interrupts(), 0
        running = asyncio.create_task(interrupts.run(typed(session, "think hard")))
        await until(lambda: "hard" in seen.messages)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running
        standin.pause_after = None
        assert session.was_cut and session.draft == ""

    session = talk("hello", stop_while_thinking, "say next")
    assert "Another client" not in seen.messages
    texts = ["hello", "You said: hello", "think hard", "", "say next", "next"]
    assert [message.content for message in session.transcript.messages] == texts
    assert standin.conversations["conv_1"].texts == texts


def test_old_server_is_asked_without_background(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.is_old = True
    session = talk("one", "two", interrupted("hang on", seen), "/history")
    assert session.transcript.turns == 3 and "stop" not in _kinds(standin)
    assert [body.get("background") for _, body in standin.requests] == [True, None, None, None]


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP])
def test_client_that_is_ended_stops_its_turn(url: str, standin: StandIn, signal_number: int) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        os.kill(terminal.process.pid, signal_number)
        terminal.wait_for_end()
    assert standin.left.wait(LIMIT_S) and _kinds(standin)[-1] == "stop"
    assert standin.conversations["conv_1"].texts[-1] == "You said: hang on"


def test_answer_of_a_killed_client_is_shown_by_the_next_one(url: str, standin: StandIn) -> None:
    standin.pause_after = 3
    words = " ".join(map(str, range(1, 25)))
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type(f"say {words}\r")
        terminal.wait_for("\n1 2 3")
        wait_for(lambda: recent_sessions(sessions_folder()))
        terminal.process.kill()
        terminal.wait_for_end()
    assert not standin.left.is_set()
    with PseudoTerminal([*CLIENT, "--url", url, "--resume"], client_environ()) as terminal:
        terminal.wait_for("The server has gone on with it:")
        standin.pause_after = None
        terminal.wait_for(f"\n{words}\n12 tokens")
        terminal.wait_for("You:", times=2)
        terminal.type("/history\r")
        terminal.wait_for(f"Assistant:\n{words}", times=2)
        terminal.wait_for("You:", times=4)
        terminal.type("say next\r")
        terminal.wait_for("12 tokens", times=2)
    assert standin.conversations["conv_1"].texts == [f"say {words}", words, "say next", "next"]
    assert list(standin.conversations) == ["conv_1"]


def _begin_elsewhere(url: str, standin: StandIn, path: str, body: Mapping[str, object]) -> None:
    """Begins a turn as another client, and leaves it running."""
    before = len(standin.logs)
    with httpx.Client(**LOCAL) as other:
        route = f"{url}/api/v1/chat{path}"
        with other.stream("POST", route, json={**body, "stream": True, "background": True}) as stream:
            for line in stream.iter_lines():
                if "delta" in line:
                    break
    assert len(standin.logs) == before + 1


def _while_it_arrives(line: str, seen: Seen, standin: StandIn) -> Steps:
    """Runs a line that shows another client's answer, which goes on as soon as it has been announced."""

    async def go(session: Session) -> None:
        running = asyncio.create_task(typed(session, line))
        await until(lambda: "the answer is still arriving:" in seen.messages or running.done())
        standin.pause_after = None
        await running

    return go


@pytest.mark.parametrize("command", ["--resume", "/load hello"])
def test_answer_that_another_client_has_running_is_shown(
    talk: Talk, url: str, standin: StandIn, command: str
) -> None:
    talk("hello")
    standin.pause_after = 3
    words = " ".join(map(str, range(1, 25)))
    _begin_elsewhere(url, standin, "", {"conversation_id": "conv_1", "message": f"say {words}"})
    options = [command] if command.startswith("--") else []
    with PseudoTerminal([*CLIENT, "--url", url, *options], client_environ()) as terminal:
        if not options:
            terminal.type(f"{command}\r")
        terminal.wait_for("Another client has asked here, and the answer is still arriving:")
        terminal.wait_for(f"You:\nsay {words}")
        standin.pause_after = None
        terminal.wait_for(f"\n{words}\n12 tokens")
        terminal.type("say next\r")
        terminal.wait_for("12 tokens", times=2)
    expected = ["hello", "You said: hello", f"say {words}", words, "say next", "next"]
    assert standin.conversations["conv_1"].texts == expected


def test_answer_that_was_stopped_is_not_said_to_go_on(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.finish_reason = "interrupted"
    talk("hello")
    talk("/load hello")
    assert "The last answer was cut off. The server has this of it:" in seen.messages


def test_answer_of_another_client_is_shown_rather_than_one_stopped_before(
    talk: Talk, url: str, seen: Seen, standin: StandIn
) -> None:
    talk(interrupted("hang on", seen))
    standin.pause_after = 3
    _begin_elsewhere(url, standin, "", {"conversation_id": "conv_1", "message": "hello"})
    session = talk(_while_it_arrives("/load hang on", seen, standin))
    assert "Another client has asked here" in seen.messages
    assert seen.answers.endswith("hello\nYou said: hello\n")
    assert session.transcript.messages[-1].content == "You said: hello"


@pytest.mark.parametrize(
    ("action", "shown"),
    [("regenerate", "You said: hello"), ("continue", "You said: helloYou said: hello")],
)
def test_old_question_that_another_client_has_answered_again_is_shown(
    talk: Talk, url: str, seen: Seen, standin: StandIn, action: str, shown: str
) -> None:
    talk("hello")
    standin.pause_after = 3
    _begin_elsewhere(url, standin, f"/conversation/conv_1/{action}", {})
    session = talk(_while_it_arrives("/load hello", seen, standin))
    assert "the answer is still arriving:" in seen.messages
    assert seen.answers.endswith(f"hello\n{shown}\n")
    assert session.transcript.messages[-1].content == shown


def test_one_message_waits_for_the_turn_that_a_killed_client_left(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hang on\r")
        terminal.wait_for("You said: hang on")
        wait_for(lambda: recent_sessions(sessions_folder()))
        terminal.process.kill()
        terminal.wait_for_end()
    (turn_id,) = standin.logs
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(piped, "say next", "--url", url, "--resume")
        wait_for(lambda: _kinds(standin)[1:] == ["events", "events"])
        httpx.delete(f"{url}/api/v1/chat/turns/{turn_id}", **LOCAL)
        done = sending.result(LIMIT_S)
    assert (done.returncode, done.stdout) == (0, "next\n")
    assert "Waiting for its end." in done.stderr
    assert standin.conversations["conv_1"].texts == ["hang on", "You said: hang on", "say next", "next"]
    assert list(standin.conversations) == ["conv_1"]


def test_notice_disappears_when_the_connection_is_back(url: str, standin: StandIn) -> None:
    standin.cuts, standin.chunks_per_s, standin.holds_events = [4, 0, 0], 200, True
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hello there\r")
        terminal.wait_for("You sa\nThe connection was lost. Connecting again (1)...")
        standin.holds_events = False
        terminal.wait_for("You said: hello there\n12 tokens")
        assert "Connecting again" not in terminal.text
        terminal.wait_for("The connection was lost meanwhile.")
