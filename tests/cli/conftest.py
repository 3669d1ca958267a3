"""Fixtures of the client's tests: a scripted server on a real port, and a readable terminal."""

import asyncio
import contextlib
import io
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.cli.commands.conversation import send
from app.cli.commands.registry import Call, parse
from app.cli.conversation.session import Session
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.net.client import ChatClient
from app.cli.output.terminal import Terminal, TerminalStyle
from app.cli.paths import sessions_folder
from app.cli.transcripts.autosave import Autosave
from app.cli.transcripts.session_index import load_session, recent_sessions
from tests.cli.stand_in.process import served
from tests.cli.stand_in.state import StandIn
from tests.waiting import until

Talk = Callable[..., Session]
Steps = Callable[[Session], Coroutine[Any, Any, None]]


class ReadableScreen(io.StringIO):
    """Claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Seen:
    """The output of a terminal. In plain mode answers go to `out` and everything else to `err`."""

    out: io.StringIO = field(default_factory=ReadableScreen)
    err: io.StringIO = field(default_factory=io.StringIO)

    @property
    def answers(self) -> str:
        return self.out.getvalue()

    @property
    def messages(self) -> str:
        return self.err.getvalue()

    def terminal(self) -> Terminal:
        return Terminal(TerminalStyle(plain=True, color=False, symbols=True), self.out, self.err)

    def rich(self) -> Terminal:
        return Terminal(TerminalStyle(plain=False, color=True, symbols=True), self.out, self.err)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def standin() -> StandIn:
    return StandIn()


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    with served(standin) as address:
        yield address


async def typed(session: Session, line: str) -> None:
    parsed = parse(line)
    if isinstance(parsed, Call):
        await parsed.command.call(session, parsed.argument)
    else:
        await send(session, parsed)


def interrupted(line: str, seen: Seen) -> Steps:
    """Runs the line, and presses Ctrl-C once the answer has repeated it."""

    async def go(session: Session) -> None:
        interrupts = Interrupts()
        shown = len(seen.answers)
        running = asyncio.create_task(interrupts.run(typed(session, line)))
        await until(lambda: line in seen.answers[shown:])
        interrupts.fire()
        with pytest.raises(Interrupted):
            await running

    return go


def last_autosaved() -> list[str]:
    """The messages of the last autosaved conversation."""
    (last,) = recent_sessions(sessions_folder(), limit=1)
    return [message.content for message in load_session(last.session_id, sessions_folder()).messages]


@pytest.fixture
def talk(url: str, seen: Seen) -> Talk:
    """Runs lines and coroutines in one session, in order, and returns the session."""

    def run(*steps: str | Steps, system_prompt: str = "") -> Session:
        async def go() -> Session:
            async with ChatClient(url) as client:
                with contextlib.closing(Autosave(sessions_folder())) as autosave:
                    session = Session(client, seen.terminal(), system_prompt, autosave)
                    for step in steps:
                        await (typed(session, step) if isinstance(step, str) else step(session))
                return session

        return asyncio.run(go())

    return run


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Gives each test a working folder and XDG folders of its own."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
