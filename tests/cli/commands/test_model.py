import asyncio

import pytest

from app.cli.conversation.session import Session
from app.cli.errors import ClientError, Refused
from app.cli.input.interrupts import Interrupted, Interrupts
from tests.cli.client_process import until
from tests.cli.conftest import Seen, Talk, typed
from tests.cli.stand_in.state import StandIn


def test_models_and_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("/models", "/switch gpt2", "hello")
    assert "gpt2: load 50%" in seen.messages and "✅ Successfully switched to gpt2" in seen.messages
    assert "Served from openai-community/gpt2" in seen.messages
    assert session.current_model == standin.current == "gpt2"
    with pytest.raises(Refused) as caught:
        talk("/switch gtp2")
    assert caught.value.code == "model_not_found"
    with pytest.raises(ClientError, match="needs the name"):
        talk("/switch")


def test_current_model_is_listed_last(talk: Talk, seen: Seen) -> None:
    talk("/models")
    assert seen.messages.index("gpt2 ") < seen.messages.index("builtin ")


def test_ctrl_c_cancels_a_switch(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def stop(session: Session) -> None:
        interrupts = Interrupts()
        running = asyncio.create_task(interrupts.run(typed(session, "/switch hang")))
        await until(lambda: "hang: load" in seen.messages)
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    talk(stop)
    assert standin.left.wait(5) and standin.current == "builtin"


def test_statistics_and_status(talk: Talk, seen: Seen) -> None:
    talk("one", "/switch gpt2", "two", "/stats", "/status")
    assert (
        "builtin" in seen.messages
        and "40%" in seen.messages
        and "▇" not in seen.messages.partition("/stats")[0]
    )
    assert (
        "cpu float32, 400 MB of memory" in seen.messages
        and "1 turn" not in seen.messages.rpartition("conv")[2]
    )
    with pytest.raises(ClientError, match="no answer since"):
        talk("/stats")


def test_narrow_terminal_cuts_nothing_off(talk: Talk, seen: Seen) -> None:
    async def narrow(session: Session) -> None:
        session.terminal.console.width = 25

    talk("one", narrow, "/switch gpt2", "two", "/models", "/stats", "/status", "/help")
    assert "gpt2     Loaded" in seen.messages and "First token" in seen.messages
    assert "…" not in seen.messages


def test_compare_leaves_the_conversation_unchanged(talk: Talk, seen: Seen, standin: StandIn) -> None:
    session = talk("one", "two", "/compare builtin gpt2 gtp2")
    assert seen.answers.endswith("You said: two\nYou said: two\nYou said: two\n")
    assert "gpt2:" in seen.messages and "No model is named gtp2. Did you mean gpt2?" in seen.messages
    assert session.transcript.turns == 2 and list(standin.conversations) == ["conv_1"]
    for lines in (["/compare gpt2"], ["one", "/compare"]):
        with pytest.raises(ClientError):
            talk(*lines)
