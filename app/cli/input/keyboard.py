"""Owns the terminal's keyboard while the client runs, and what was typed before that.

Between prompts nothing that is typed shows, and all of it waits for the next prompt. Imports nothing heavy:
the client takes the keyboard first, and loads its modules then.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

MARK_PASTES, STOP_MARKING = "\x1b[?2004h", "\x1b[?2004l"  # or lines pasted between prompts look typed
MAX_TYPED = 4096  # what a terminal holds


@contextlib.contextmanager
def quiet_keyboard() -> Iterator[str]:
    """Gives what was typed before, as it is typed from here on: Enter is a carriage return, and Ctrl-J, which
    a terminal in line mode does not tell from it, is one too. Ctrl-C still interrupts."""
    if not sys.stdin.isatty():
        yield ""
        return
    import termios  # only where there are terminals of this kind

    before = termios.tcgetattr(sys.stdin)
    quiet = _quieted(before)

    def quiet_again(number: int, frame: object) -> None:
        """After Ctrl-Z and `fg` the shell has left the terminal as usual; a prompt has seen to it itself."""
        if termios.tcgetattr(sys.stdin)[3] & termios.ICANON:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
            _tell_terminal(MARK_PASTES)

    with _on_continue(quiet_again):
        try:
            termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
            _tell_terminal(MARK_PASTES)
            yield _waiting()
        finally:
            _tell_terminal(STOP_MARKING)
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


@contextlib.contextmanager
def _on_continue(act: Callable[[int, object], None]) -> Iterator[None]:
    """Only the main thread gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCONT, act)
    try:
        yield
    finally:
        signal.signal(signal.SIGCONT, before)


def _quieted(mode: list[Any]) -> list[Any]:  # Any: as termios gives it
    import termios

    quiet = list(mode)
    quiet[0] &= ~termios.ICRNL
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    quiet[3] |= termios.NOFLSH  # or Ctrl-C drops what was typed before it
    return quiet


@contextlib.contextmanager
def loud_keyboard() -> Iterator[None]:
    """Inside `quiet_keyboard`, for another program that takes the terminal: as terminals usually are."""
    import termios  # only where there are terminals of this kind

    quiet = termios.tcgetattr(sys.stdin)
    usual = termios.tcgetattr(sys.stdin)
    usual[0] |= termios.ICRNL
    usual[3] |= termios.ECHO | termios.ICANON | termios.ISIG
    _tell_terminal(STOP_MARKING)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, usual)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
        _tell_terminal(MARK_PASTES)


def _waiting() -> str:
    """What the terminal holds by now. The end of input that Ctrl-D makes in line mode reads as NUL."""
    if not select.select([sys.stdin], [], [], 0)[0]:
        return ""
    held = os.read(sys.stdin.fileno(), MAX_TYPED)
    return held.decode(errors="ignore").replace("\n", "\r").replace("\0", "\x04")


def _tell_terminal(sequence: str) -> None:
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        sys.stdout.write(sequence)
        sys.stdout.flush()
