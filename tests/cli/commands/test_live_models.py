"""The list of models while one is loading, in a terminal and in plain mode."""

import asyncio
import io

from rich.console import Console

from app.cli.commands.live_models import HINT, LiveModels
from app.cli.conversation.session import Session
from app.cli.net.client import ChatClient
from app.cli.output.terminal import Terminal, TerminalStyle
from app.models.schemas import LoadProgress
from tests.cli.client_process import CLIENT, client_environ
from tests.cli.conftest import Seen, Talk, typed
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.cli.stand_in.state import StandIn
from tests.waiting import until


def _download(fraction: float) -> LoadProgress:
    return LoadProgress(
        model_name="gpt2",
        stage="download",
        fraction=fraction,
        done_bytes=round(548_000_000 * fraction),
        total_bytes=548_000_000,
        bytes_per_s=2.5e6,
    )


def test_model_list_is_live_while_a_model_loads(url: str, standin: StandIn) -> None:
    standin.loading = _download(0.25)
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("/models\r")
        terminal.wait_for("⏳ gpt2: downloading 137 MB of 548 MB at 2 MB/s")
        terminal.wait_for("25%", times=2)  # in the table and beside the bar
        terminal.type("typed meanwhile")
        terminal.wait_for("You: typed meanwhile")
        standin.loading = _download(0.5)
        terminal.wait_for("274 MB of 548 MB")
        standin.loading, standin.current = None, "gpt2"
        terminal.wait_for("gpt2     ✅ Loaded")
        while HINT in terminal.text:  # the last frame may still be on its way
            terminal.wait_for_more()
        terminal.wait_for("You: typed meanwhile")
        left = terminal.text.partition("Available Models:")[2]
        assert left.count("The builtin model") == left.count("✅ Loaded") == 1
        assert "download" not in left and HINT not in left


def test_ctrl_c_closes_the_list_and_keeps_the_load(url: str, standin: StandIn) -> None:
    standin.loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
    with PseudoTerminal([*CLIENT, "--url", url], client_environ()) as terminal:
        terminal.type("/models\r")
        terminal.wait_for(HINT)
        terminal.type("\x03")
        terminal.wait_for("The server continues loading.")
        left = terminal.text.partition("Available Models:")[2]
        assert left.count("The builtin model") == left.count("load 50%") == 1 and HINT not in left
        standin.loading = None
        terminal.type("hello\r")
        terminal.wait_for("You said: hello")


def test_plain_model_list_reports_progress_in_lines(talk: Talk, seen: Seen, standin: StandIn) -> None:
    async def watch(session: Session) -> None:
        watching = asyncio.create_task(typed(session, "/models"))
        await until(lambda: "137 MB" in seen.messages)
        standin.loading = _download(0.5)
        await until(lambda: "274 MB" in seen.messages)
        standin.loading, standin.current = None, "gpt2"
        await watching

    standin.loading = _download(0.25)
    talk(watch)
    lines = [line for line in seen.messages.splitlines() if line.startswith("gpt2: ")]
    assert lines == [
        "gpt2: downloading 137 MB of 548 MB at 2 MB/s 25%",
        "gpt2: downloading 274 MB of 548 MB at 2 MB/s 50%",
    ]
    before, _, after = seen.messages.partition(HINT)
    assert "download 25%" in before and "Loaded" in after and "\x1b" not in seen.messages


def _rows(standin: StandIn, height: int, width: int = 80) -> list[str]:
    terminal = Terminal(TerminalStyle(plain=False, color=True, symbols=True), io.StringIO())
    terminal.console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    session = Session(ChatClient("http://127.0.0.1:9"), terminal)
    session.models = {entry.name: entry for entry in standin.models().models}
    return ["".join(segment.text for segment in row) for row in LiveModels(session).live(width)]


def test_model_list_is_short_if_it_is_too_long_for_the_terminal(standin: StandIn) -> None:
    standin.loading = LoadProgress(model_name="gpt2", stage="load", fraction=0.5)
    whole, short = _rows(standin, height=30), _rows(standin, height=8)
    assert "The gpt2 model" in "\n".join(whole)
    assert "The gpt2 model" not in "\n".join(short) and len(short) <= 8 - 3
    assert all(name in "\n".join(short) for name in ("gpt2", "builtin", "gpt2: reading its weights", HINT))


def test_narrow_model_list_shows_progress_without_a_bar(standin: StandIn) -> None:
    standin.loading = _download(0.25)
    rows = _rows(standin, height=30, width=25)
    assert any(row.startswith("⏳ gpt2: download") and row.endswith("25%") for row in rows)
    assert "━" not in "".join(rows)
