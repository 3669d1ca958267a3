"""The keys that are read between prompts."""

import asyncio

import pytest
from prompt_toolkit.input import create_pipe_input

from app.cli.input.typed_ahead import TypedAhead


@pytest.mark.parametrize(
    ("keys", "expected"), [("y", "y"), ("\x1b[12;1Ry", "y"), ("\x1b[A", "\x1b[A"), ("\x04", "\x04")]
)
def test_next_key_skips_the_answers_of_the_terminal(keys: str, expected: str) -> None:
    async def ask() -> str:
        with create_pipe_input() as keyboard:
            typed_ahead = TypedAhead(keyboard)
            typed_ahead.begin()
            keyboard.send_text(keys)
            return await asyncio.wait_for(typed_ahead.next_key(), 20)

    assert asyncio.run(ask()) == expected
