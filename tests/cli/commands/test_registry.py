import asyncio

import pytest

from app.cli.commands.registry import COMMANDS, Call, find, parse, show_help
from app.cli.conversation.session import Session
from app.cli.errors import UnknownCommand
from app.cli.net.client import ChatClient
from tests.cli.conftest import Seen


@pytest.mark.parametrize("line", ["hello", "/usr/bin/env", "/ 3", "a /quit", "/1", "//set", "/etc/hosts x"])
def test_parse_returns_messages_unchanged(line: str) -> None:
    assert parse(line) == line.replace("//", "/")


@pytest.mark.parametrize(
    ("line", "name", "argument"),
    [
        ("/quit", "quit", ""),
        ("/q", "quit", ""),
        ("/SWITCH  gpt2 ", "switch", "gpt2"),
        ("/sys be kind\nand short", "system", "be kind\nand short"),
        ("/set", "set", ""),
        ("/", "help", ""),
    ],
)
def test_parse_accepts_shortened_commands(line: str, name: str, argument: str) -> None:
    call = parse(line)
    assert isinstance(call, Call)
    assert (call.command.name, call.argument) == (name, argument)


@pytest.mark.parametrize(
    ("name", "near"),
    [("swich", "/switch"), ("st", "/status or /stats"), ("xyzzy", "/help lists")],
)
def test_unknown_command_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownCommand) as caught:
        find(name)
    assert near in str(caught.value.hint)


def test_help_shows_all_commands_or_one(seen: Seen) -> None:
    async def ask(argument: str) -> None:
        async with ChatClient("http://nowhere") as client:
            await show_help(Session(client, seen.terminal()), argument)

    asyncio.run(ask(""))
    assert all(command.usage in seen.messages for command in COMMANDS)
    asyncio.run(ask("/undo"))
    assert seen.messages.endswith("/undo [N]\n  remove the last turn, or the last N turns\n")
