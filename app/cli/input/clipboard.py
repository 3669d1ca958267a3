"""Owns the way to the clipboard: a tool of the system, or else the terminal itself."""

import asyncio
import base64
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping

from app.cli.errors import UsageError
from app.cli.output.terminal import Terminal

PATIENCE_S = 3.0
MAX_OSC52 = 74_994  # bytes before encoding that common terminals take

_TOOLS = (  # what must be set for a tool to reach a clipboard, and how it is called
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    ("TMUX", ("tmux", "load-buffer", "-w", "-")),
    ("WSL_DISTRO_NAME", ("clip.exe",)),
    ("HOME", ("pbcopy",)),
)


def clipboard_tools(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Those that are there and have a clipboard to reach, the best first."""
    return [
        command
        for variable, command in _TOOLS
        if environ.get(variable) and shutil.which(command[0], path=environ.get("PATH"))
    ]


async def copied_by(text: str, terminal: Terminal) -> str:
    """Copies, and says by what means.

    Raises:
        Missing: there is neither a tool nor a terminal that could.
    """
    for command in clipboard_tools(os.environ):
        if await _runs(command, text):
            return f"with {command[0]}"
    content = text.encode()
    if terminal.style.plain or not terminal.out.isatty() or len(content) > MAX_OSC52:
        raise UsageError(
            "There is no clipboard here.", "wl-copy, xclip, xsel, pbcopy or tmux would reach one."
        )
    terminal.out.write(f"\x1b]52;c;{base64.b64encode(content).decode()}\x07")
    terminal.out.flush()
    return "through the terminal, if it allows that (OSC 52)"


async def _runs(command: tuple[str, ...], text: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
        await asyncio.wait_for(process.communicate(text.encode()), PATIENCE_S)
    except (OSError, TimeoutError):
        return False
    return process.returncode == 0
