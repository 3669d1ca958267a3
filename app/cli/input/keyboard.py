"""Sets the terminal's input mode while the client runs, so that keys typed between prompts are not echoed but
kept for the next prompt.

Imports nothing heavy, because the client does this before it loads its other modules.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

MARK_PASTES, STOP_MARKING = "\x1b[?2004h", "\x1b[?2004l"  # else lines pasted between prompts look typed
MAX_TYPED = 4096  # bytes; the terminal's buffer


@contextlib.contextmanager
def quiet_keyboard() -> Iterator[str]:
    """Turns off echo and line mode inside this context. Ctrl-C still sends a signal.

    Yields the text that was typed before. Enter is a carriage return in it, and so is Ctrl-J, because line
    mode does not distinguish them.
    """
    if not sys.stdin.isatty():
        yield ""
        return
    import termios  # only on systems with such terminals

    before = termios.tcgetattr(sys.stdin)
    quiet = _quieted(before)

    def set_quiet_again(number: int, frame: object) -> None:
        """After Ctrl-Z and `fg` the shell has restored line mode. (An open prompt has its own handler.)"""
        if termios.tcgetattr(sys.stdin)[3] & termios.ICANON:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
            _write_to_terminal(MARK_PASTES)

    with on_continue(set_quiet_again):
        try:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
            _write_to_terminal(MARK_PASTES)
            yield _read_buffered()
        finally:
            _write_to_terminal(STOP_MARKING)
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextlib.contextmanager
def on_continue(act: Callable[[int, object], None]) -> Iterator[None]:
    """Calls `act` on SIGCONT. Has no effect outside the main thread, which alone can handle signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCONT, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)


def _quieted(mode: list[Any]) -> list[Any]:  # Any: as termios returns it
    import termios

    quiet = list(mode)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH  # else Ctrl-C discards what was typed before it
    return quiet


@contextlib.contextmanager
def loud_keyboard() -> Iterator[None]:
    """Restores echo and line mode for another program, inside `quiet_keyboard`."""
    import termios  # only on systems with such terminals

    quiet = termios.tcgetattr(sys.stdin)
    usual = termios.tcgetattr(sys.stdin)
    usual[0] |= termios.ICRNL
    usual[3] |= termios.ECHO | termios.ICANON | termios.ISIG
    _write_to_terminal(STOP_MARKING)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, usual)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
        _write_to_terminal(MARK_PASTES)


def _read_buffered() -> str:
    """Reads the text that was typed so far. In line mode, Ctrl-D arrives as NUL."""
    if not select.select([sys.stdin], [], [], 0)[0]:
        return ""
    held = os.read(sys.stdin.fileno(), MAX_TYPED)
    return held.decode(errors="ignore").replace("\n", "\r").replace("\0", "\x04")


def _write_to_terminal(sequence: str) -> None:
    """Writes to the descriptor, because a signal handler may interrupt a write of `sys.stdout` itself."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        os.write(sys.stdout.fileno(), sequence.encode())
