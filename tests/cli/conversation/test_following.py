"""What other clients ask in the open conversation is shown, at an idle prompt without being asked for."""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.cli.conversation.server.running_turns import Backoff, ConversationWatch
from app.cli.conversation.session import Session
from app.cli.errors import UsageError
from app.models.schemas import LoadProgress
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.conftest import Seen, Talk
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.http_options import LOCAL
from tests.waiting import wait_for

WORDS = " ".join(map(str, range(1, 25)))


def ask_elsewhere(url: str, message: str, **fields: object) -> None:
    """Asks in the first conversation as another client, and returns when the answer has begun."""
    body: Mapping[str, object] = {"conversation_id": "conv_1", "message": message, "stream": True, **fields}
    with (
        httpx.Client(**LOCAL) as other,
        other.stream("POST", f"{url}/api/v1/chat", json=body) as stream,
    ):
        lines = stream.iter_lines()
        while "delta" not in next(lines):
            pass
        while "background" not in fields and next(lines, None) is not None:
            pass


@pytest.fixture
def terminal(url: str) -> PseudoTerminal:
    """A client with one turn in its conversation."""
    client = PseudoTerminal([*CLIENT, "--url", url], client_environ())
    client.type("hello\r")
    client.wait_for("12 tokens")
    client.wait_for("You:", times=2)
    return client


def test_idle_prompt_shows_the_answer_that_another_client_has_running(
    url: str, standin: StandIn, terminal: PseudoTerminal
) -> None:
    with terminal:
        standin.pause_after = 3
        ask_elsewhere(url, f"say {WORDS}", background=True)
        terminal.wait_for("Another client has asked here, and the answer is still arriving:")
        terminal.wait_for(f"You:\nsay {WORDS}")
        standin.pause_after = None
        terminal.wait_for(f"\n{WORDS}\n12 tokens")
        terminal.type("say next\r")
        terminal.wait_for("12 tokens", times=3)
    assert standin.conversations["conv_1"].texts[2:] == [f"say {WORDS}", WORDS, "say next", "next"]


def test_answer_that_has_ended_is_noticed(talk: Talk, url: str) -> None:
    async def watch(session: Session) -> None:
        watch = ConversationWatch(session.client, ended_s=0)
        watch.begin(session.transcript)
        assert not await watch.has_news()
        ask_elsewhere(url, "say something else")
        assert await watch.has_news() and await watch.has_news()

    talk("hello", watch)


def test_answers_of_this_client_are_no_news(talk: Talk, standin: StandIn) -> None:
    async def watch(session: Session) -> None:
        watch = ConversationWatch(session.client, ended_s=0)
        watch.begin(session.transcript)
        await session.send("say next")
        assert not await watch.has_news()
        standin.conversations.clear()
        assert not await watch.has_news()

    talk("hello", watch)


def test_looks_that_count_against_a_limit_become_rarer() -> None:
    now_s = 0.0
    backoff = Backoff(30, 300, clock=lambda: now_s)
    due = []
    while now_s < 1500:
        if backoff.is_due():
            due.append(now_s)
        now_s += 2
    assert due == [30, 90, 210, 450, 750, 1050, 1350]


def test_idle_watch_asks_only_which_turns_run(talk: Talk, standin: StandIn) -> None:
    async def watch(session: Session) -> None:
        watch = ConversationWatch(session.client, ended_s=3600)
        watch.begin(session.transcript)
        before = standin.reads
        for _ in range(20):
            assert not await watch.has_news()
        assert standin.reads == before

    talk("hello", watch)


def test_turn_that_cannot_be_read_is_announced_again_once_it_can(
    talk: Talk, url: str, standin: StandIn
) -> None:
    async def watch(session: Session) -> None:
        watch = ConversationWatch(session.client, ended_s=3600, retry_s=0)
        watch.begin(session.transcript)
        standin.pause_after, standin.refuses_events = 3, True
        ask_elsewhere(url, f"say {WORDS}", background=True)
        assert await watch.has_news() and not watch.announce()
        watch.begin(session.transcript)
        assert not await watch.has_news() and not await watch.has_news()
        standin.refuses_events = False
        assert await watch.has_news() and watch.announce()

    talk("hello", watch)


def test_turn_that_cannot_be_read_is_reported_once(url: str, standin: StandIn) -> None:
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("hello\r")
        terminal.wait_for("12 tokens")
        terminal.wait_for("You:", times=2)
        standin.pause_after, standin.refuses_events = 3, True
        ask_elsewhere(url, f"say {WORDS}", background=True)
        terminal.wait_for("You may not read this turn.")
        asked = len(standin.requests)
        wait_for(lambda: len(standin.requests) >= asked + 1)  # it has tried again, and said nothing
        assert terminal.text.count("You may not read this turn.") == 1
        standin.refuses_events = False
        terminal.wait_for("The answer of the other client can be read again.")
        terminal.wait_for("Assistant:\n1 2 3")  # it is followed, before it ends
        standin.pause_after = None
        terminal.wait_for(f"\n{WORDS}\n12 tokens")


def test_message_follows_what_another_client_has_asked_meanwhile(
    talk: Talk, seen: Seen, url: str, standin: StandIn
) -> None:
    async def another_asks(_: Session) -> None:
        ask_elsewhere(url, "say theirs")

    session = talk("hello", another_asks, "say mine")
    assert seen.answers.endswith("say theirs\ntheirs\nmine\n")
    assert "Another client has asked here:" in seen.messages and "Your message follows." in seen.messages
    texts = ["hello", "You said: hello", "say theirs", "theirs", "say mine", "mine"]
    assert standin.conversations["conv_1"].texts == texts
    assert [message.content for message in session.transcript.messages] == texts


def test_message_waits_for_the_answer_that_another_client_has_running(
    talk: Talk, seen: Seen, url: str, standin: StandIn
) -> None:
    async def another_asks(_: Session) -> None:
        standin.chunks_per_s = 30
        ask_elsewhere(url, f"say {WORDS}", background=True)

    talk("hello", another_asks, "say mine")
    assert standin.conversations["conv_1"].texts[2:] == [f"say {WORDS}", WORDS, "say mine", "mine"]


@pytest.mark.parametrize("command", ["/undo", "/continue", "/retry", "/edit"])
def test_command_about_the_last_turn_changes_no_turn_that_was_not_seen(
    talk: Talk, seen: Seen, url: str, standin: StandIn, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISUAL", "sed -i s/hello/changed/")

    async def another_asks(_: Session) -> None:
        ask_elsewhere(url, "say theirs")

    with pytest.raises(UsageError, match="Nothing was changed"):
        talk("hello", another_asks, command)
    assert seen.answers.endswith("say theirs\ntheirs\n")
    assert standin.conversations["conv_1"].texts[2:] == ["say theirs", "theirs"]


def test_command_about_the_last_turn_is_refused_during_that_of_another_client(
    talk: Talk, seen: Seen, url: str, standin: StandIn
) -> None:
    async def another_asks(_: Session) -> None:
        standin.chunks_per_s = 30
        ask_elsewhere(url, f"say {WORDS}", background=True)

    with pytest.raises(UsageError, match="Nothing was changed"):
        talk("hello", another_asks, "/undo")
    assert seen.answers.endswith(f"say {WORDS}\n{WORDS}\n")
    assert standin.conversations["conv_1"].texts[2:] == [f"say {WORDS}", WORDS]


def test_conversation_is_not_read_unless_another_client_has_changed_it(talk: Talk, standin: StandIn) -> None:
    talk("one", "two", "/retry", "/continue", "/undo", "three")
    assert standin.reads == 0


async def another_goes_back(session: Session) -> None:
    path = f"{session.client.url}/api/v1/chat/conversation/conv_1/undo"
    httpx.post(path, json={}, trust_env=False).raise_for_status()


def test_message_goes_on_where_the_user_is_when_another_client_has_gone_back(
    talk: Talk, standin: StandIn
) -> None:
    talk("hello", "say one", another_goes_back, "say two", "/undo", "say three")
    texts = ["hello", "You said: hello", "say one", "one", "say three", "three"]
    assert standin.conversations["conv_1"].texts == texts
    assert standin.reads == 0


def test_undo_changes_nothing_when_another_client_has_gone_back(
    talk: Talk, seen: Seen, standin: StandIn
) -> None:
    with pytest.raises(UsageError, match="Nothing was changed"):
        talk("hello", "say one", another_goes_back, "/undo")
    assert seen.answers.endswith("hello\nYou said: hello\n")
    assert "Another client has gone to another place" in seen.messages
    assert standin.conversations["conv_1"].texts == ["hello", "You said: hello"]


def test_line_that_is_being_typed_stays_until_it_is_cleared(
    url: str, standin: StandIn, terminal: PseudoTerminal
) -> None:
    with terminal:
        terminal.type("half a")
        terminal.wait_for("You: half a")
        standin.pause_after = 3
        ask_elsewhere(url, f"say {WORDS}", background=True)
        terminal.type(" line")
        terminal.wait_for("You: half a line")
        assert "Another client" not in terminal.text
        terminal.type("\x03")
        terminal.wait_for("Another client has asked here, and")


def test_line_in_the_editor_is_not_interrupted(url: str, standin: StandIn, tmp_path: Path) -> None:
    begun, may_end = tmp_path / "begun", tmp_path / "may_end"
    os.mkfifo(may_end)
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\ntouch {begun}\ncat {may_end} > "$1"\n')
    editor.chmod(0o700)
    with PseudoTerminal(
        [*CLIENT, "--url", url], client_environ(EDITOR=str(editor), VISUAL=str(editor))
    ) as terminal:
        terminal.type("hello\r")
        terminal.wait_for("12 tokens")
        terminal.wait_for("You:", times=2)
        terminal.type("\x18\x05")
        wait_for(begun.exists)
        standin.chunks_per_s = 5  # so that the answer takes longer than the prompt waits between two looks
        ask_elsewhere(url, f"say {WORDS}")
        may_end.write_text("say this")
        terminal.wait_for("You: say this")
        assert "Another client" not in terminal.text


@pytest.mark.parametrize(("number", "goes_on"), [(signal.SIGINT, False), (signal.SIGHUP, True)])
def test_answer_of_another_client_is_stopped_by_ctrl_c_only(
    url: str, standin: StandIn, terminal: PseudoTerminal, number: int, goes_on: bool
) -> None:
    with terminal:
        standin.pause_after = 3
        ask_elsewhere(url, f"say {WORDS}", background=True)
        terminal.wait_for("Assistant:\n1 2 3")
        terminal.process.send_signal(number)
        terminal.wait_for_end() if goes_on else terminal.wait_for("Stopped.")
        standin.pause_after = None
        wait_for(lambda: len(standin.conversations["conv_1"].texts) == 4)
    assert (standin.conversations["conv_1"].texts[-1] == WORDS) is goes_on


def test_answer_of_another_client_is_stopped_before_it_begins(
    url: str, standin: StandIn, terminal: PseudoTerminal
) -> None:
    with terminal, ThreadPoolExecutor() as threads:
        standin.loading = LoadProgress(model_name="builtin", stage="load", fraction=0.5)
        threads.submit(ask_elsewhere, url, f"say {WORDS}", background=True)
        terminal.wait_for("reading its weights")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Stopped.")
        standin.loading = None
    assert ("stop", {}) in standin.requests


def test_follow_says_that_there_is_nothing_new(talk: Talk, seen: Seen) -> None:
    talk("/follow", "hello", "/follow")
    assert seen.messages.count("No other client has asked here since.") == 2


def test_follow_shows_what_others_have_asked(talk: Talk, seen: Seen, url: str) -> None:
    async def others_ask(_: Session) -> None:
        ask_elsewhere(url, "say one")
        ask_elsewhere(url, "say two")

    session = talk("hello", others_ask, "/follow")
    assert seen.answers.endswith("say one\none\nsay two\ntwo\n")
    assert session.transcript.turns == 3


def test_follow_shows_an_answer_that_others_have_regenerated_even_if_it_is_the_same(
    talk: Talk, seen: Seen, url: str
) -> None:
    async def others_regenerate(session: Session) -> None:
        answer = session.transcript.messages[-1].id
        path = f"{url}/api/v1/chat/conversation/conv_1/regenerate"
        httpx.post(path, json={"message_id": answer}, **LOCAL).raise_for_status()

    talk("hello", others_regenerate, "/follow", "/follow")
    assert seen.messages.count("Another client has asked here:") == 1
    assert seen.messages.count("No other client has asked here since.") == 1


def test_follow_takes_no_message_of_a_restored_conversation_for_new(
    talk: Talk, seen: Seen, standin: StandIn
) -> None:
    async def server_loses(_: Session) -> None:
        standin.conversations.clear()

    session = talk("hello", server_loses, "/follow")
    assert seen.messages.endswith("No other client has asked here since.\n")
    assert session.transcript.turns == 1
