import asyncio
import re

import pytest

from app.cli.commands.registry import COMMANDS, Call, Command, find, parse, show_help
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, UnknownCommand, UsageError
from app.cli.net.client import ChatClient
from tests.cli.conftest import Seen, Talk


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


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.arguments])
def test_command_without_arguments_refuses_one_by_name(seen: Seen, command: Command) -> None:
    async def ask() -> None:
        async with ChatClient("http://nowhere") as client:
            await command.call(Session(client, seen.terminal()), "foo bar")

    with pytest.raises(UsageError, match=f"/{command.name} takes no argument, not 'foo bar'."):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/edit new text", "/edit takes no argument, not 'new text'."),
        ("/status foo", "/status takes no argument, not 'foo'."),
        ("/copy 2 3", "/copy takes N, code, code K or all, not '2 3'."),
        ("/copy all of it", "/copy takes N, code, code K or all, not 'all of it'."),
        ("/copy code 1 2", "no code"),
        ("/copy 0", "no answer '0'"),
        ("/history 0", "/history takes a number of turns, not '0'."),
        ("/history 1 2", "/history takes a number of turns, not '1 2'."),
        (f"/history {'9' * 5000}", "/history takes a number of turns"),
        (f"/undo {'9' * 5000}", "/undo takes a number of turns"),
        ("/undo ٣", "/undo takes a number of turns"),
        (f"/load #{'9' * 5000}", "The list has no number"),
        ("/help retry foo", "/help takes one command, not 'retry foo'."),
        ("/retry model=", "/retry takes KEY=VALUE, not 'model='."),
        ("/set --save top_k", "No setting is called '--save'."),
        ("/set top_k 5--save", "top_k must be"),
    ],
)
def test_command_refuses_what_it_does_not_document(talk: Talk, line: str, expected: str) -> None:
    with pytest.raises(ClientError, match=re.escape(expected)):
        talk("hello", line)


def test_help_shows_all_commands_or_one(seen: Seen) -> None:
    async def ask(argument: str) -> None:
        async with ChatClient("http://nowhere") as client:
            await show_help(Session(client, seen.terminal()), argument)

    asyncio.run(ask(""))
    assert all(command.usage in seen.messages for command in COMMANDS)
    asyncio.run(ask("/undo"))
    assert seen.messages.endswith("/undo [N]\n  go back by one turn, or by N; /branch brings them back\n")
