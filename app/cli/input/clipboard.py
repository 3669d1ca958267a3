"""Copies text to the clipboard with a program of the system, or else through the terminal."""

import asyncio
import base64
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping

from app.cli.errors import UsageError
from app.cli.output.terminal import Terminal

TIMEOUT_S = 3.0
MAX_OSC52 = 74_994  # bytes before encoding; common terminals accept them

_TOOLS = (  # the environment variable that shows that a clipboard exists, and the command
    ("WAYLAND_DISPLAY", ("wl-copy",)),
    ("DISPLAY", ("xclip", "-selection", "clipboard")),
    ("DISPLAY", ("xsel", "--clipboard", "--input")),
    ("TMUX", ("tmux", "load-buffer", "-w", "-")),
    ("WSL_DISTRO_NAME", ("clip.exe",)),
    ("HOME", ("pbcopy",)),
)


def clipboard_tools(environ: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Returns the commands that are installed and have a clipboard, best first."""
    return [
        command
        for variable, command in _TOOLS
        if environ.get(variable) and shutil.which(command[0], path=environ.get("PATH"))
    ]


async def copy_to_clipboard(text: str, terminal: Terminal) -> str:
    """Copies the text. Returns by what means, such as "with xclip".

    Raises:
        UsageError: neither a program nor the terminal can copy it.
    """
    for command in clipboard_tools(os.environ):
        if await _succeeds(command, text):
            return f"with {command[0]}"
    content = text.encode()
    if terminal.style.plain or not terminal.out.isatty() or len(content) > MAX_OSC52:
        raise UsageError("No clipboard is available.", "Install wl-copy, xclip or xsel, or run this in tmux.")
    terminal.out.write(f"\x1b]52;c;{base64.b64encode(content).decode()}\x07")
    terminal.out.flush()
    return "through the terminal, if it permits that (OSC 52)"


async def _succeeds(command: tuple[str, ...], text: str) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
        await asyncio.wait_for(process.communicate(text.encode()), TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    return process.returncode == 0
