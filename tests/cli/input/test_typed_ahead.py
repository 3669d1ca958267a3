"""The keys that are read between prompts."""

import asyncio

import pytest
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from app.cli.conversation.session import Session
from app.cli.input.prompt import TerminalPrompt
from app.cli.input.typed_ahead import TypedAhead
from app.cli.net.client import ChatClient
from tests.cli.conftest import Seen
from tests.waiting import LIMIT_S


@pytest.mark.parametrize(
    ("keys", "is_held", "line"),
    [
        ("one", False, "one"),
        ("one\r", True, "one"),
        ("one\r\r", True, "one"),
        ("one\rtwo", True, "one\ntwo"),
        ("one\rtwo\r", True, "one\ntwo"),
        ("one\rtwo\rthr", True, "one\ntwo\nthr"),
    ],
)
def test_lines_can_be_held_back(keys: str, is_held: bool, line: str, seen: Seen) -> None:
    async def ask() -> str:
        with create_pipe_input() as keyboard:
            session = Session(ChatClient("http://nowhere"), seen.rich())
            prompt = TerminalPrompt(session, InMemoryHistory(), "", keyboard, DummyOutput())
            typed_ahead = session.terminal.typed_ahead
            assert typed_ahead is not None
            typed_ahead.begin()
            keyboard.send_text(keys)
            await asyncio.wait_for(typed_ahead.wait_for_key(), LIMIT_S)
            assert typed_ahead.hold() is is_held
            asking = asyncio.create_task(prompt.ask(""))
            await asyncio.sleep(0)
            keyboard.send_text("\r")
            return await asyncio.wait_for(asking, LIMIT_S)

    assert asyncio.run(ask()) == line


def test_enter_alone_is_no_line_to_hold_back() -> None:
    async def hold() -> bool:
        with create_pipe_input() as keyboard:
            typed_ahead = TypedAhead(keyboard)
            typed_ahead.begin()
            keyboard.send_text("\r\r")
            await asyncio.wait_for(typed_ahead.wait_for_key(), LIMIT_S)
            return typed_ahead.hold()

    assert not asyncio.run(hold())


@pytest.mark.parametrize(
    ("keys", "expected"), [("y", "y"), ("\x1b[12;1Ry", "y"), ("\x1b[A", "\x1b[A"), ("\x04", "\x04")]
)
def test_next_key_skips_the_answers_of_the_terminal(keys: str, expected: str) -> None:
    async def ask() -> str:
        with create_pipe_input() as keyboard:
            typed_ahead = TypedAhead(keyboard)
            typed_ahead.begin()
            keyboard.send_text(keys)
            return await asyncio.wait_for(typed_ahead.next_key(), LIMIT_S)

    assert asyncio.run(ask()) == expected
