"""Edits text in the user's editor."""

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


async def edit_text(text: str, terminal: Terminal) -> str:
    """Opens the text in $VISUAL or $EDITOR and returns the result. Ctrl-C goes to the editor meanwhile.

    Raises:
        UsageError: the editor cannot be started or fails.
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
            hint = "Set EDITOR to an editor that is installed."
            raise UsageError(f"{command[0]} cannot be started: {error.strerror}.", hint) from None
        code = await _exit_status(process)
        if code != 0:
            raise UsageError(f"{command[0]} exited with status {code}. The message was not changed.")
        return file.read_text(encoding="utf-8", errors="replace")


async def _exit_status(process: asyncio.subprocess.Process) -> int:
    """Waits for the process to end. Ignores cancellation by Ctrl-C, which the editor handles itself."""
    ending = asyncio.ensure_future(process.wait())
    while not ending.done():
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            continue
    return ending.result()
