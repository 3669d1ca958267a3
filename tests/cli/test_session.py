import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.cli.client import ChatClient, ClientError, Refused, StreamBroken
from app.cli.commands import Call, parse
from app.cli.handlers import Leave
from app.cli.interrupts import Interrupted, Interrupts
from app.cli.session import NothingYet, Session
from app.cli.transcripts import TranscriptError, load
from tests.cli.conftest import Seen
from tests.cli.standin import StandIn

Talk = Callable[..., Session]
Steps = Callable[[Session], Coroutine[Any, Any, None]]


@pytest.fixture
def talk(url: str, seen: Seen) -> Talk:
    """Runs lines, as they would be typed, or coroutines of one session, and gives it back."""

    def run(*steps: str | Steps, system_prompt: str = "") -> Session:
        async def go() -> Session:
            async with ChatClient(url) as client:
                session = Session(client, seen.terminal(), system_prompt)
                for step in steps:
                    await (_typed(session, step) if isinstance(step, str) else step(session))
                return session

        return asyncio.run(go())

    return run


async def _typed(session: Session, line: str) -> None:
    meant = parse(line)
    if isinstance(meant, Call):
        await meant.command.run(session, meant.argument)
    else:
        await session.send(meant)


def _interrupted(line: str, seen: Seen) -> Steps:
    """Types the line, and Ctrl-C once the answer shows."""

    async def go(session: Session) -> None:
        interrupts = Interrupts()
        shown = len(seen.answers)
        running = asyncio.create_task(interrupts.run(_typed(session, line)))
        while len(seen.answers) == shown:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    return go


def test_answers_and_what_they_cost(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("hello", "again")
    assert seen.answers == "You said: hello\nYou said: again\n"
    assert "12 tokens · 240 tokens/s · first after 0.05 s · 8 cached" in seen.told
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


def test_left_out_messages_and_a_cut_answer_are_told(talk: Talk, seen: Seen, standin: StandIn) -> None:
    standin.omitted, standin.finish_reason = 4, "length"
    talk("hello")
    assert "4 of the oldest messages no longer fit" in seen.told
    assert "/continue goes on" in seen.told


def test_retry_undo_and_new(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/set seed 5", "/retry", "/undo")
    assert standin.requests[-1] == ("regenerate", {"stream": True, "seed": 5})
    assert [message.content for message in session.transcript.messages] == ["one", "You said: one"]
    assert len(standin.conversations["conv_1"]) == 2
    session = talk("one", "/new Other", "two")
    assert session.transcript.title == "Other" and session.transcript.turns == 1


def test_undo_takes_a_number_and_stops_at_the_beginning(talk: Talk, seen: Seen) -> None:
    assert talk("one", "two", "three", "/undo 2").transcript.turns == 1
    assert talk("one", "/undo 9").transcript.turns == 0
    with pytest.raises(ClientError, match="takes a number"):
        talk("one", "/undo all")


@pytest.mark.parametrize("command", ["/retry", "/continue", "/undo"])
def test_nothing_to_act_on_is_said(talk: Talk, command: str) -> None:
    with pytest.raises(NothingYet):
        talk(command)


def test_ctrl_c_keeps_what_came_and_continue_extends_it(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk(_interrupted("hang on", seen))
    assert session.transcript.messages[-1].finish_reason == "interrupted"
    assert session.was_cut and session.draft == "" and session.context_used == 0
    assert standin.left.wait(5)
    session = talk(_interrupted("hang on", seen), "/continue")
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


def test_connection_that_breaks_keeps_what_came(talk: Talk) -> None:
    async def broken(session: Session) -> None:
        with pytest.raises(StreamBroken):
            await session.send("drop now")

    session = talk(broken)
    assert session.transcript.messages[-1].content == "You said: drop now"


def test_conversation_that_the_server_lost_is_restored_once(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def forget(session: Session) -> None:
        standin.conversations.clear()

    session = talk("one", "two", forget, "three", forget, "/retry")
    assert seen.told.count("restored 2 turns") == 1 and seen.told.count("restored 3 turns") == 1
    assert session.transcript.turns == 3
    (kept,) = standin.conversations.values()
    assert [message["content"] for message in kept[::2]] == ["one", "two", "three"]


def test_save_and_load_go_on(talk: Talk, seen: Seen, standin: StandIn) -> None:
    talk("one", "/system Be kind.", "/save talk")
    assert "💾 Conversation saved to talk.json" in seen.told
    assert load("talk").messages[0].content == "one"
    session = talk("/load talk", "two", "/save")
    assert session.transcript.turns == 2 and load("talk").messages[2].content == "two"
    assert standin.requests[-1][1]["conversation_id"] == "conv_2"
    with pytest.raises(TranscriptError):
        talk("/load nothing")


def test_save_and_load_say_what_they_lack(talk: Talk) -> None:
    with pytest.raises(ClientError, match="/save needs a name"):
        talk("one", "/save")
    with pytest.raises(ClientError, match="nothing to save"):
        talk("one", "/new Title", "/save")
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("/load")
    assert caught.value.hint == "Nothing is saved yet."
    with pytest.raises(ClientError, match="/load needs a name") as caught:
        talk("one", "/save talk", "/load")
    assert caught.value.hint == "There are: talk."


def test_saving_after_ctrl_c_saves_what_the_server_kept(talk: Talk, seen: Seen) -> None:
    talk(_interrupted("hang on", seen), "/save cut")
    assert load("cut").messages[1].content == "You said: hang on"


def test_history_shows_both_sides(talk: Talk, seen: Seen) -> None:
    talk("/history", "hello", "/history")
    assert "Nothing has been said yet." in seen.told
    assert seen.answers == "You said: hello\nhello\nYou said: hello\n"


def test_models_and_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("/models", "/switch gpt2", "hello")
    assert "gpt2: load..." in seen.told and "✅ Successfully switched to gpt2" in seen.told
    assert "Served from openai-community/gpt2" in seen.told
    assert session.current_model == standin.current == "gpt2"
    with pytest.raises(Refused) as caught:
        talk("/switch gtp2")
    assert caught.value.code == "model_not_found"
    with pytest.raises(ClientError, match="needs the name"):
        talk("/switch")


def test_current_model_is_listed_last(talk: Talk, seen: Seen) -> None:
    talk("/models")
    assert seen.told.index("gpt2 ") < seen.told.index("builtin ")


def test_ctrl_c_cancels_a_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def stop(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(_typed(session, "/switch hang")))
        while "hang: load" not in seen.told:
            await asyncio.sleep(0)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(stop)
    assert standin.left.wait(5) and standin.current == "builtin"


def test_set_shows_and_checks(talk: Talk, seen: Seen) -> None:
    talk("/set", "/set top_k 5", "/set top_k default", "/set top_k")
    assert "repetition_penalty" in seen.told and "0 to 1,000,000" in seen.told
    with pytest.raises(ClientError, match="takes 0 to 2"):
        talk("/set temperature hot")
    with pytest.raises(ClientError, match="no setting"):
        talk("/set heat")


def test_quit_leaves(talk: Talk) -> None:
    with pytest.raises(Leave):
        talk("/quit")
