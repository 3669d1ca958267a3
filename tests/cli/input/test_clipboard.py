import asyncio
import base64
import io
import os
import stat
from pathlib import Path

import pytest

from app.cli.errors import UsageError
from app.cli.input.clipboard import MAX_OSC52, clipboard_tools, copy_to_clipboard
from app.cli.output.terminal import Terminal, TerminalStyle
from tests.cli.conftest import ReadableScreen


def _tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _copied(text: str, plain: bool = False) -> tuple[str, str]:
    screen = ReadableScreen()
    terminal = Terminal(TerminalStyle(plain=plain, color=False, symbols=True), screen, io.StringIO())
    return asyncio.run(copy_to_clipboard(text, terminal)), screen.getvalue()


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    for name in ("WAYLAND_DISPLAY", "DISPLAY", "TMUX", "WSL_DISTRO_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_clipboard_tools_need_a_clipboard(tools: Path) -> None:
    _tool(tools, "xclip", "")
    assert ("xclip", "-selection", "clipboard") not in clipboard_tools(os.environ)
    assert clipboard_tools(os.environ | {"DISPLAY": ":0"})[0] == ("xclip", "-selection", "clipboard")


def test_text_is_copied_by_the_first_working_tool(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYLAND_DISPLAY", "w")
    monkeypatch.setenv("DISPLAY", ":0")
    _tool(tools, "wl-copy", "exit 1")
    _tool(tools, "xclip", f"cat > {tools}/copied")
    assert _copied("raw **text**\n") == ("with xclip", "")
    assert (tools / "copied").read_text() == "raw **text**\n"


def test_terminal_copies_if_there_is_no_tool(tools: Path) -> None:
    way, written = _copied("über")
    assert "OSC 52" in way
    assert written == f"\x1b]52;c;{base64.b64encode('über'.encode()).decode()}\x07"


@pytest.mark.parametrize(("text", "plain"), [("x", True), ("x" * (MAX_OSC52 + 1), False)])
def test_missing_clipboard_is_reported(tools: Path, text: str, plain: bool) -> None:
    with pytest.raises(UsageError, match="No clipboard"):
        _copied(text, plain)
