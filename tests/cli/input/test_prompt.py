import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from app.cli.conversation.session import Session
from app.cli.input.completion import CommandCompleter
from app.cli.input.prompt import TerminalPrompt, open_history, status_line
from app.cli.net.client import ChatClient
from app.cli.transcripts.transcript_file import Transcript, save
from tests.cli.conftest import Seen
from tests.cli.stand_in.state import StandIn

ENTER, ALT_ENTER, CTRL_J, CTRL_C, CTRL_D, TAB = "\r", "\x1b\r", "\n", "\x03", "\x04", "\t"


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def _asked(
    keyboard: PipeInput,
    seen: Seen,
    keys: str,
    draft: str = "",
    typed: str = "",
    times: int = 1,
    ahead: str = "",
    history: tuple[str, ...] = (),
) -> list[str]:
    """The lines that result from `typed` before the editor exists, `ahead` before the prompt appears, and
    `keys` afterwards."""

    async def ask() -> list[str]:
        async with ChatClient("http://nowhere") as client:
            session = Session(client, seen.rich())
            session.models = {entry.name: entry for entry in StandIn().models().models}
            prompt = TerminalPrompt(session, InMemoryHistory(history), typed, keyboard, DummyOutput())
            keyboard.send_text(ahead)
            asking = asyncio.create_task(prompt.ask(draft))
            await asyncio.sleep(0)
            keyboard.send_text(keys)
            return [await asking, *[await prompt.ask("") for _ in range(times - 1)]]

    return asyncio.run(ask())


def _typed(keyboard: PipeInput, seen: Seen, keys: str, draft: str = "") -> str:
    return _asked(keyboard, seen, keys, draft)[0]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (f"hello{ENTER}", "hello"),
        (f"one{ALT_ENTER}two{CTRL_J}three{ENTER}", "one\ntwo\nthree"),
        (f"\x1b[200~a\nb\nc\x1b[201~{ENTER}", "a\nb\nc"),
        (f"gone{CTRL_C}here{ENTER}", "here"),
        (f"{ENTER}{ENTER}text{ENTER}", "text"),
        (f"/swi{TAB} gp{TAB}{ENTER}", "/switch gpt2"),
        (f"a\x1b[13;2ub\x1b[27;2;13~c{ENTER}", "a\nb\nc"),  # Shift-Enter in two kinds of terminals
        (f"a\\{ENTER}b\\\\{ENTER}", "a\nb\\\\"),
        (f'"""one{ENTER}{ENTER}two{ENTER}"""{ENTER}', "one\n\ntwo"),
        (f'"""{ENTER}/quit{ENTER}"""{ENTER}', "//quit"),
        (f'say """ aloud{ENTER}', 'say """ aloud'),
    ],
)
def test_keys_edit_the_line(keyboard: PipeInput, seen: Seen, keys: str, line: str) -> None:
    assert _typed(keyboard, seen, keys) == line


@pytest.mark.parametrize(
    ("pasted", "line"), [("caf\xe9".encode("latin-1"), "caf\N{REPLACEMENT CHARACTER}"), ("é".encode(), "é")]
)
def test_bytes_that_are_no_text_are_replaced(
    keyboard: PipeInput, seen: Seen, pasted: bytes, line: str
) -> None:
    keyboard.send_bytes(pasted)
    assert _typed(keyboard, seen, ENTER) == line


def test_status_line_shows_model_context_and_conversation(seen: Seen) -> None:
    session = Session(ChatClient("http://nowhere"), seen.rich())
    session.models = {entry.name: entry for entry in StandIn().models().models}
    session.current_model, session.context_tokens, session.attached = "gpt2", 512, ["a"]
    session.transcript.title = "Bread"
    assert status_line(session) == "gpt2 · ████░░░░ 512/1,024 tokens · 0 turns · Bread · 1 file attached"
    session.terminal.console.width = 40
    assert status_line(session) == "gpt2 · ████░░░░ 512/1,024 tokens"


def test_draft_is_offered_again(keyboard: PipeInput, seen: Seen) -> None:
    assert _typed(keyboard, seen, f" still{ENTER}", draft="here") == "here still"


def test_lines_typed_ahead_are_used_in_order(keyboard: PipeInput, seen: Seen) -> None:
    typed, ahead = "first\r\x1b[200~a\rb", "\x1b[201~\rthi"  # a paste during which the editor starts
    lines = _asked(keyboard, seen, f"rd{ENTER}", typed=typed, ahead=ahead, times=3)
    assert lines == ["first", "a\nb", "third"]


def test_draft_is_not_mixed_with_typed_ahead_text(keyboard: PipeInput, seen: Seen) -> None:
    assert _asked(keyboard, seen, "", draft="failed", ahead=f"next{ENTER}") == ["next"]
    assert "up arrow to get your line back" in seen.answers


@pytest.mark.parametrize("draft", ["row\n" * 200, "word " * 2000])
def test_long_draft_leaves_the_error_above_it_visible(keyboard: PipeInput, seen: Seen, draft: str) -> None:
    assert _asked(keyboard, seen, f"next{ENTER}", draft=draft) == ["next"]
    assert "up arrow to get your line back" in seen.answers


def test_enter_typed_ahead_sends_the_draft(keyboard: PipeInput, seen: Seen) -> None:
    lines = _asked(keyboard, seen, "", draft="again", ahead=f"{ENTER}next{ENTER}", times=2)
    assert lines == ["again", "next"]


def test_ctrl_d_quits(keyboard: PipeInput, seen: Seen) -> None:
    with pytest.raises(EOFError):
        _typed(keyboard, seen, CTRL_D)


def test_history_file_is_private_and_persistent(tmp_path: Path) -> None:
    path = tmp_path / "history"
    open_history(path).append_string("hello")
    assert list(open_history(path).load_history_strings()) == ["hello"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert isinstance(open_history(tmp_path / "missing" / "history"), InMemoryHistory)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/sw", ["switch"]),
        ("/switch ", ["builtin", "gpt2"]),
        ("/load ta", ["talk"]),
        ("/set to", ["top_p", "top_k"]),
        ("/help und", ["undo"]),
        ("/set top_p d", ["default"]),
        ("/retry se", ["seed="]),
        ("/retry seed=1 model=g", ["model=gpt2"]),
        ("/compare gpt2 ", ["builtin"]),
        ("/copy c", ["code"]),
        ("/load two w", ["two words"]),
        ("/read not", ["es.txt"]),
        ("look at @not", ["es.txt"]),
        ("look at @my", ['@"my file.txt"']),
        ('look at @"my f', ['@"my file.txt"']),
        ("look at @our", ['@"our folder']),
        ("mail me@not", []),
        ("/s x", []),
        ("hello /sw", []),
        ("/switch gpt2 ", []),
    ],
)
def test_completion_knows_commands_models_files_and_settings(
    seen: Seen, typed: str, offered: list[str]
) -> None:
    for name in ("talk", "two words"):
        save(Transcript(), name)
    for file in ("notes.txt", "my file.txt"):
        Path(file).write_text("")
    Path("our folder").mkdir()
    session = Session(ChatClient("http://nowhere"), seen.terminal())
    session.models = {entry.name: entry for entry in StandIn().models().models}
    found = CommandCompleter(session).get_completions(Document(typed), CompleteEvent())
    assert [completion.text for completion in found] == offered
