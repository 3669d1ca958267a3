"""The chat loop."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input

from app.cli.chat import Chat
from app.cli.conversation.session import Session
from app.cli.input.interrupts import Interrupts
from app.cli.input.typed_ahead import TypedAhead
from app.cli.net.client import ChatClient
from app.cli.net.connection import Connection, ServerTarget, connected
from app.cli.net.server import choose_port
from app.models.schemas import NewChatRequest, TranscriptMessage
from tests.cli.conftest import Seen
from tests.cli.net.test_server import COMMAND
from tests.waiting import until


class ScriptedPrompt:
    """Types the lines, and records the drafts it was offered."""

    def __init__(self, lines: list[str], before_last: Callable[[], None] | None = None) -> None:
        self._lines = list(lines)
        self._before_last = before_last
        self.drafts: list[str] = []

    async def ask(self, draft: str) -> str:
        self.drafts.append(draft)
        if not self._lines:
            raise EOFError
        if len(self._lines) == 1 and self._before_last is not None:
            self._before_last()
        return self._lines.pop(0)


def _chatted(
    url: str, seen: Seen, lines: list[str], before: Callable[[Session], None] | None = None
) -> list[str]:
    async def run() -> list[str]:
        async with ChatClient(url) as client:
            session = Session(client, seen.terminal())
            if before is not None:
                before(session)
            prompt = ScriptedPrompt(lines)
            connection = Connection(client, ServerTarget({}, url=url))
            await Chat(session, connection, prompt, Interrupts()).run()
            return prompt.drafts

    return asyncio.run(run())


def test_no_error_ends_the_loop(url: str, seen: Seen) -> None:
    lines = ["refuse", "/undo", "/swich gpt2", "/load nothing", "fail", "drop", "/set heat 1", "  ", "hello"]
    drafts = _chatted(url, seen, lines)
    assert seen.answers.endswith("You said: hello\n")
    assert drafts == ["", "refuse", "", "/swich gpt2", "", "fail", "", "", "", ""]


def test_message_that_is_too_long_is_reported(url: str, seen: Seen) -> None:
    _chatted(url, seen, ["x" * 400_001])
    assert "The message cannot be sent" in seen.messages


def _break(session: Session) -> None:
    session.settings = None  # type: ignore[assignment]  # provokes a bug


def test_client_bug_is_logged_and_reported_in_one_line(url: str, seen: Seen) -> None:
    _chatted(url, seen, ["hello", "/help"], _break)
    assert "This is a bug in the client" in seen.messages and "/models" in seen.messages
    log = Path(os.environ["XDG_STATE_HOME"]) / "llm-serving" / "client.log"
    assert "Traceback" in log.read_text() and "Traceback" not in seen.messages


def test_client_bug_is_reported_if_it_cannot_be_logged(url: str, seen: Seen) -> None:
    (Path(os.environ["XDG_STATE_HOME"]) / "llm-serving" / "client.log").mkdir(parents=True)
    _chatted(url, seen, ["hello", "/help"], _break)
    assert "This is a bug in the client" in seen.messages and "/models" in seen.messages
    assert "The traceback cannot be saved: Is a directory." in seen.messages


def _chatted_with_own(
    seen: Seen, lines: list[str], forgotten: str = "", typed_ahead: TypedAhead | None = None
) -> tuple[list[str], Session]:
    """Types the lines. The client's own server, a stand-in, ends before the last line; the next one lacks the
    model `forgotten`. From then on, keys are typed ahead."""

    async def run() -> tuple[list[str], Session]:
        environ = os.environ | {"LLM_PORT": str(choose_port("127.0.0.1", 0))}
        wanted = ServerTarget(environ, command=COMMAND)
        async with connected(wanted, seen.terminal(), Interrupts()) as connection:

            def end() -> None:
                environ["FORGOTTEN"] = forgotten
                connection.close()
                if typed_ahead is not None:
                    session.terminal.typed_ahead = typed_ahead
                    typed_ahead.begin()

            session = Session(connection.client, seen.terminal())
            prompt = ScriptedPrompt(lines, before_last=end)
            await Chat(session, connection, prompt, Interrupts()).run()
            return prompt.drafts, session

    return asyncio.run(run())


def test_line_is_sent_again_before_those_typed_meanwhile(seen: Seen) -> None:
    with create_pipe_input() as keyboard:
        keyboard.send_text("later\r")
        drafts, session = _chatted_with_own(seen, ["hello", "again"], typed_ahead=TypedAhead(keyboard))
    assert drafts == ["", "", ""] and seen.answers.endswith("You said: again\n")
    assert session.transcript.turns == 2 and "Press Enter" not in seen.messages


@pytest.mark.parametrize("line", ["hello again", "/models", "/switch builtin", "//usr"])
def test_line_is_offered_again_after_the_server_ended(seen: Seen, line: str) -> None:
    drafts, _ = _chatted_with_own(seen, ["hello", line])
    assert drafts == ["", "", line]
    assert "Press Enter to send your line again." in seen.messages


def test_chosen_model_is_restored_in_a_new_server(seen: Seen) -> None:
    _, session = _chatted_with_own(seen, ["/switch gpt2", "hello"])
    assert session.current_model == "gpt2"
    assert seen.messages.endswith(
        "Current model: gpt2 (served from openai-community/gpt2)\nPress Enter to send your line again.\n\n"
    )


def test_chosen_model_that_a_new_server_lacks_is_reported(seen: Seen) -> None:
    _, session = _chatted_with_own(seen, ["/switch gpt2", "hello"], forgotten="gpt2")
    assert session.current_model == "builtin"
    assert "builtin answers instead of gpt2." in seen.messages


def test_quitting_ends_the_loop(url: str, seen: Seen) -> None:
    assert _chatted(url, seen, ["/quit", "never"]) == [""]


@pytest.mark.parametrize(
    ("lines", "more", "read"),
    [
        (["hello", "/quit", "/quit", "never"], {}, 3),
        (["hello", "/quit", "hello", "/quit", "/quit", "never"], {}, 5),
        (["hello"], {}, 3),  # Ctrl-D, twice
        (["hello", "/quit", "never"], {"LLM_DATABASE_URL": "sqlite:///conversations.db"}, 2),
    ],
)
def test_quitting_warns_once_of_conversations_that_end_with_the_own_server(
    lines: list[str], more: dict[str, str], read: int, seen: Seen
) -> None:
    async def run() -> int:
        environ = os.environ | {"LLM_PORT": str(choose_port("127.0.0.1", 0))} | more
        async with connected(
            ServerTarget(environ, command=COMMAND), seen.terminal(), Interrupts()
        ) as connection:
            on_page = NewChatRequest(messages=[TranscriptMessage(role="user", content="hi")])
            await connection.client.new_chat(on_page)
            prompt = ScriptedPrompt(lines)
            await Chat(Session(connection.client, seen.terminal()), connection, prompt, Interrupts()).run()
            return len(prompt.drafts)

    assert asyncio.run(run()) == read
    assert ("only it has 1 conversation, such as" in seen.messages) == (not more)


def test_quitting_does_not_warn_of_conversations_that_are_saved_here(seen: Seen) -> None:
    drafts, _ = _chatted_with_own(seen, ["hello", "/quit"])
    assert drafts == ["", ""] and "only it has" not in seen.messages


def test_ctrl_c_offers_continue_only_after_an_answer(url: str, seen: Seen) -> None:
    async def run() -> None:
        async with ChatClient(url) as client:
            interrupts = Interrupts()
            prompt = ScriptedPrompt(["hang on", "/switch hang"])
            connection = Connection(client, ServerTarget({}, url=url))
            chat = Chat(Session(client, seen.terminal()), connection, prompt, interrupts)
            chatting = asyncio.create_task(chat.run())
            await until(lambda: "You said: hang on" in seen.answers)
            interrupts.fire()
            await until(lambda: "hang: reading its weights" in seen.messages)
            interrupts.fire()
            await chatting

    asyncio.run(run())
    notes = [line for line in seen.messages.splitlines() if line.startswith("Stopped")]
    assert notes == ["Stopped. /continue extends the answer.", "Stopped."]
