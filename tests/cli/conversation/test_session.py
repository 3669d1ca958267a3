"""The turns of a session: what is shown, sent to the server, and saved."""

import asyncio

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import Refused, StreamBroken
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.paths import sessions_folder
from app.cli.transcripts.session_index import recent_sessions
from app.models.schemas import LoadProgress
from tests.cli.conftest import Seen, Talk, interrupted, last_autosaved
from tests.cli.stand_in.state import StandIn
from tests.waiting import LIMIT_S, until


def test_send_shows_answers_and_their_statistics(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("hello", "again")
    assert seen.answers == "You said: hello\nYou said: again\n"
    assert "12 tokens · 240 tokens/s · first after 0.05 s · 8 cached · context 32" in seen.messages
    assert session.transcript.turns == 2 and session.context_tokens == 32
    assert list(standin.conversations) == ["conv_1"]


def test_send_includes_settings_and_changed_system_prompt(talk: Talk, standin: StandIn) -> None:
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


def test_changed_system_prompt_is_sent_with_the_next_message(talk: Talk, standin: StandIn) -> None:
    talk("one", "/system Be brief.", "/retry", "/continue", "two")
    sent = [(kind, body.get("system_prompt")) for kind, body in standin.requests]
    assert sent == [("chat", None), ("regenerate", None), ("continue", None), ("chat", "Be brief.")]


def test_cleared_system_prompt_is_sent(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("/system clear", "one")
    assert standin.requests == [("chat", standin.requests[0][1] | {"system_prompt": ""})]
    assert "has no system prompt" in seen.messages


def test_omitted_messages_and_token_limit_are_reported(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.omitted, standin.finish_reason = 4, "length"
    talk("hello")
    assert "4 of the oldest messages did not fit" in seen.messages
    assert "/continue extends it" in seen.messages


def test_continuing_a_complete_answer_is_reported(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.is_complete, standin.tokens = True, 1
    talk("hello", "/continue")
    assert seen.messages.count("added nothing") == 1 and "1 token · " in seen.messages


def test_continue_extends_an_interrupted_answer(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(interrupted("hang on", seen))
    assert session.transcript.messages[-1].finish_reason == "interrupted"
    assert session.was_cut and session.draft == "" and session.context_tokens == 0
    assert standin.left.wait(LIMIT_S)
    session = talk(interrupted("hang on", seen), "/continue")
    assert session.transcript.messages[-1].content == "You said: hang onmore of on"
    assert seen.answers.endswith("You said: hang on\nmore of on\n")  # the beginning is not shown again


def test_ctrl_c_before_the_answer_offers_the_message_again(talk: Talk, standin: StandIn) -> None:
    async def stop_at_once(session: Session) -> None:
        interrupts = Interrupts()
        standin.loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
        running = asyncio.create_task(interrupts.run(session.send("hello")))
        await until(lambda: session.draft)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    session = talk(stop_at_once)
    assert session.draft == "hello" and not session.transcript.messages


def test_refused_message_becomes_the_draft(talk: Talk) -> None:
    async def refused(session: Session) -> None:
        with pytest.raises(Refused, match="queue is full"):
            await session.send("refuse this")

    assert talk(refused).draft == "refuse this"


def test_failed_answer_changes_nothing(talk: Talk, seen: Seen) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused, match="process ended"):
            await session.send("fail now")

    session = talk("one", failed)
    assert session.draft == "fail now" and session.transcript.turns == 1
    assert "You said: fail now" in seen.answers


def test_broken_connection_keeps_the_partial_answer(talk: Talk, standin: StandIn) -> None:
    async def broken(session: Session) -> None:
        with pytest.raises(StreamBroken) as caught:
            await session.send("drop now")
        hint = str(caught.value.hint)
        assert "/continue" in hint and "/retry" in hint

    session = talk(broken)
    assert session.transcript.messages[-1].content == "You said: drop now"
    assert session.was_cut and [kind for kind, _ in standin.requests] == ["chat", "events", "stop"]


def test_lost_conversation_is_restored_once(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    session = talk("one", "two", forget, "three", forget, "/retry")
    assert seen.messages.count("Restored 2 turns") == 1 and seen.messages.count("Restored 3 turns") == 1
    assert session.transcript.turns == 3
    (kept,) = standin.conversations.values()
    assert kept.texts[::2] == ["one", "two", "three"]


def test_answer_is_autosaved_while_it_arrives(talk: Talk, seen: Seen) -> None:
    async def look_while_it_streams(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(session.send("hang on")))
        # The question is saved before the first words of its answer, without which the turn is not kept.
        await until(lambda: recent_sessions(sessions_folder()) and len(last_autosaved()) == 2)
        assert last_autosaved()[0] == "hang on"
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(look_while_it_streams)
    assert last_autosaved() == ["hang on", "You said: hang on"]


def test_failed_answer_does_not_change_the_file(talk: Talk) -> None:
    async def failed(session: Session) -> None:
        with pytest.raises(Refused):
            await session.send("fail now")

    talk("one", failed)
    assert last_autosaved() == ["one", "You said: one"]


def test_reasoning_is_shown_but_not_part_of_the_answer(talk: Talk, seen: Seen) -> None:
    session = talk("think about it")
    assert seen.answers == "You said: think about it\n" and "about it\n\n" in seen.messages
    assert session.transcript.messages[1].content == "You said: think about it"
