"""No text of a server or a file reaches the terminal with control characters, whichever command shows it."""

import asyncio
import contextlib
import io
import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from app.cli.chat import Chat
from app.cli.commands.registry import COMMANDS
from app.cli.conversation.session import Session
from app.cli.input.interrupts import Interrupts
from app.cli.net.client import ChatClient
from app.cli.net.connection import Connection, ServerTarget
from app.cli.output.console import SafeConsole
from app.cli.output.progress_bar import ProgressUpdate, rich_bar
from app.cli.paths import sessions_folder
from app.cli.transcripts.autosave import Autosave
from app.models import schemas as wire
from tests.cli.conftest import ReadableScreen, Seen
from tests.cli.stand_in.process import served
from tests.cli.stand_in.state import Refusal, StandIn
from tests.cli.stand_in.tree import StandInTree
from tests.cli.test_chat import ScriptedPrompt

SEQUENCES = (
    "\x1b]0;title\x07",
    "\x1b]52;c;cHduZWQ=\x07",
    "\x1b[2J",
    "\x1bc",
    "\x9b2J",
    "\x1bP+q\x1b\\",
    "\x08\x7f",
)
MARKUP = ("[/b]", "[bold]", "[link=http://evil]", "[", "\\[", ":smile:", "{x}", "%s", "\u202e", "`", "# ")
HOSTILE = (*SEQUENCES, *MARKUP, "\r", "\n", "\t")
OWN = re.compile(r"\x1b\[[\d;]*m|\x1b\[\d*A|\x1b\[2?K|\x1b\[J|\x1b\[\?(?:2026|25)[hl]|[\r\n\t]")
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=3), min_size=1, max_size=6).map("".join)
LEFT_OUT = {"copy", "edit", "clear", "quit"}  # run a program, or write sequences of the client's own


class HostileServer(StandIn):
    """Puts a text into every field that a server is free to fill."""

    def __init__(self, text: str) -> None:
        super().__init__({text: text, "gpt2": text})
        self.text = text
        self.current = text
        self.note = text
        self.answer = text
        self.finish_reason = "length"

    def models(self) -> wire.ModelListResponse:
        listing = super().models()
        fields = {"error": self.text, "description": self.text, "display_name": self.text}
        entries = [entry.model_copy(update=fields) for entry in listing.models]
        return wire.ModelListResponse(models=entries, current_model=self.current)

    def tree(self, conversation_id: str) -> StandInTree:
        if self.requests and self.requests[-1][1].get("message") == "refuse me":
            raise Refusal(400, self.text, self.text, self.text)
        return super().tree(conversation_id)


def _lines(text: str) -> list[str]:
    return [
        "think hard",
        *("/models", "/status", "/stats", "/history", "/follow", "/help"),
        *("/retry", "/continue", "/compare gpt2 Why?", "/switch gpt2", f"/switch {text}"),
        *(f"/system {text}", f"/title {text}", f"/save {text}", "/save talk", f"/new {text}", "hello"),
        *("/load talk", "/sessions", f"/sessions {text}", f"/delete {text}", f"/load {text}"),
        *(f"/set stop {text}", f"/set {text}", f"/read {text}", f"/export {text}.html", f"/{text}"),
        *("/versions", "/version previous", "/branch", f"/branch {text}", "/branch 1", "/fork"),
        *("/undo", f"thanks @{text}", "refuse me", "fail"),
    ]


def test_every_command_is_tried() -> None:
    names = {line.split()[0].removeprefix("/") for line in _lines("x") if line.startswith("/")}
    assert {command.name for command in COMMANDS} - LEFT_OUT <= names


def _shown(seen: Seen, text: str, plain: bool) -> str:
    """Everything that a session with the hostile server writes."""

    async def run(url: str) -> None:
        async with ChatClient(url) as client:
            with contextlib.closing(Autosave(sessions_folder())) as autosave:
                terminal = seen.terminal() if plain else seen.rich()
                session = Session(client, terminal, text, autosave)
                connection = Connection(client, ServerTarget({}, url=url))
                await Chat(session, connection, ScriptedPrompt(_lines(text)), Interrupts()).run()

    with served(HostileServer(text)) as url:
        asyncio.run(run(url))
    return seen.answers + seen.messages


@pytest.mark.parametrize("plain", [False, True])
@settings(
    max_examples=8,
    phases=[Phase.generate],  # shrinking a failure would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(text=texts)
def test_no_command_shows_control_characters(plain: bool, text: str) -> None:
    shown = _shown(Seen(err=ReadableScreen()), text, plain)
    left = OWN.sub("", shown)
    assert "bug in the client" not in shown
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", left), repr(left)
    assert not plain or "\x1b" not in shown


@given(text=texts)
def test_bar_shows_foreign_text_as_it_is(text: str) -> None:
    file = io.StringIO()
    with rich_bar(SafeConsole(file=file, force_terminal=True, width=200)) as bar:
        bar.show(ProgressUpdate(text))
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", OWN.sub("", file.getvalue()))


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    file = io.StringIO()
    with rich_bar(SafeConsole(file=file, force_terminal=True, width=200)) as bar:
        bar.show(ProgressUpdate("writing notes[/b].html"))
    assert "writing notes[/b].html" in file.getvalue()
