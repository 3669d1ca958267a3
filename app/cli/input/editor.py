"""Owns the way through the user's own editor."""

import asyncio
import os
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from app.cli.errors import UsageError
from app.cli.input.keyboard import loud_keyboard
from app.cli.output.terminal import Terminal


async def edited(text: str, terminal: Terminal) -> str:
    """The text as it is after $VISUAL or $EDITOR; Ctrl-C is the editor's meanwhile.

    Raises:
        Missing: there is no such editor, or it failed.
    """
    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="llm-serving-") as folder, ExitStack() as stack:
        file = Path(folder) / "message.md"
        file.write_text(text, encoding="utf-8")
        if terminal.typed_ahead is not None:
            stack.enter_context(terminal.typed_ahead.paused())
        if sys.stdin.isatty():
            stack.enter_context(loud_keyboard())
        try:
            process = await asyncio.create_subprocess_exec(*command, str(file))
        except OSError as error:
            hint = "Set EDITOR to one that is there."
            raise UsageError(f"{command[0]} cannot be started: {error.strerror}.", hint) from None
        code = await _ended(process)
        if code != 0:
            raise UsageError(f"{command[0]} ended with {code}: the message stays as it was.")
        return file.read_text(encoding="utf-8", errors="replace")


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Ctrl-C reaches the editor too, which knows what to do with it."""
    ending = asyncio.ensure_future(process.wait())
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            continue
    return ending.result()
