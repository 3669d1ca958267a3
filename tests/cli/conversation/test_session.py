"""One conversation: its turns, what the server hears of them, and what is kept of them."""

import asyncio

import pytest

from app.cli.conversation.session import Session
from app.cli.conversation.session_index import recent_sessions
from app.cli.errors import Refused, StreamBroken
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.paths import sessions_folder
from tests.cli.conftest import Seen, Talk, interrupted, last_kept
from tests.cli.stand_in import StandIn


def test_answers_and_what_they_cost(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("hello", "again")
    assert seen.answers == "You said: hello\nYou said: again\n"
    assert "12 tokens · 240 tokens/s · first after 0.05 s · 8 cached · context 32" in seen.told
    assert session.transcript.turns == 2 and session.context_used == 32
    assert list(standin.conversations) == ["conv_1"]


def test_settings_and_system_prompt_go_with_the_message(talk: Talk, standin: StandIn) -> None:
    talk(
        "/set temperature 0",
        "one",
        "two",
        "/system Be brief.",
        "three",
        "/system clear",
        "four",
        system_prompt="Hi",
    )
    bodies = [body for _, body in standin.requests]
    assert [body.get("system_prompt") for body in bodies] == ["Hi", None, "Be brief.", ""]
    assert {body["temperature"] for body in bodies} == {0}


def test_changed_system_prompt_is_told_by_the_next_message_also_after_retry(
    talk: Talk, standin: StandIn
) -> None:
    talk("one", "/system Be brief.", "/retry", "/continue", "two")
    told = [(kind, body.get("system_prompt")) for kind, body in standin.requests]
    assert told == [("chat", None), ("regenerate", None), ("continue", None), ("chat", "Be brief.")]


def test_cleared_system_prompt_unsets_the_servers_own(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("/system clear", "one")
    assert standin.requests == [("chat", standin.requests[0][1] | {"system_prompt": ""})]
    assert "sets no system prompt" in seen.told


def test_left_out_messages_and_a_cut_answer_are_told(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.omitted, standin.finish_reason = 4, "length"
    talk("hello")
    assert "4 of the oldest messages no longer fit" in seen.told
    assert "/continue goes on" in seen.told


def test_continued_answer_that_was_finished_is_said(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.has_said_all, standin.tokens = True, 1
    talk("hello", "/continue")
    assert seen.told.count("added nothing") == 1 and "1 token · " in seen.told


def test_ctrl_c_keeps_what_came_and_continue_extends_it(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(interrupted("hang on", seen))
    assert session.transcript.messages[-1].finish_reason == "interrupted"
    assert session.was_cut and session.draft == "" and session.context_used == 0
    assert standin.left.wait(5)
    session = talk(interrupted("hang on", seen), "/continue")
    assert session.transcript.messages[-1].content == "You said: hang onmore of on"


def test_ctrl_c_before_anything_came_offers_the_message_again(talk: Talk, seen: Seen) -> None:
    async def stop_at_once(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(session.send("hello")))
        while not session.draft:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    session = talk(stop_at_once)
    assert session.draft == "hello" and not session.transcript.messages


def test_refused_message_is_offered_again(talk: Talk) -> None:
    async def refused(session: Session) -> None:
        with pytest.raises(Refused, match="queue is full"):
            await session.send("refuse this")

    assert talk(refused).draft == "refuse this"


def test_answer_that_fails_changes_nothing(talk: Talk, seen: Seen) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused, match="process ended"):
            await session.send("fail now")

    session = talk("one", failed)
    assert session.draft == "fail now" and session.transcript.turns == 1
    assert "You said: fail now" in seen.answers


def test_connection_that_breaks_keeps_what_came_and_resends_nothing(talk: Talk, standin: StandIn) -> None:
    async def broken(session: Session) -> None:
        with pytest.raises(StreamBroken) as caught:
            await session.send("drop now")
        hint = str(caught.value.hint)
        assert "/continue" in hint and "/retry" in hint

    session = talk(broken)
    assert session.transcript.messages[-1].content == "You said: drop now"
    assert session.was_cut and [kind for kind, _ in standin.requests] == ["chat"]


def test_conversation_that_the_server_lost_is_restored_once(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    session = talk("one", "two", forget, "three", forget, "/retry")
    assert seen.told.count("restored 2 turns") == 1 and seen.told.count("restored 3 turns") == 1
    assert session.transcript.turns == 3
    (kept,) = standin.conversations.values()
    assert [message["content"] for message in kept[::2]] == ["one", "two", "three"]


def test_answer_that_is_not_over_is_kept_as_far_as_it_came(talk: Talk, seen: Seen) -> None:
    async def look_while_it_streams(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(session.send("hang on")))
        while not recent_sessions(sessions_folder()):
            await asyncio.sleep(0.01)
        assert last_kept()[0] == "hang on"
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(look_while_it_streams)
    assert last_kept() == ["hang on", "You said: hang on"]


def test_answer_that_fails_leaves_the_file_as_it_was(talk: Talk) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused):
            await session.send("fail now")

    talk("one", failed)
    assert last_kept() == ["one", "You said: one"]


def test_thoughts_are_shown_apart_and_stay_out_of_the_answer(talk: Talk, seen: Seen) -> None:
    session = talk("think about it")
    assert seen.answers == "You said: think about it\n" and "about it\n\n" in seen.told
    assert session.transcript.messages[1].content == "You said: think about it"
