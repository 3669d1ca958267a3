"""Runs a program in a pseudo-terminal, types keys and reads the screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

from tests.waiting import LIMIT_S


class PseudoTerminal:
    """Runs a command; `wait_for` reads until the screen or its scrollback shows a text."""

    def __init__(
        self,
        command: list[str],
        environ: dict[str, str],
        columns: int = 80,
        rows: int = 24,
        folder: Path | None = None,
    ) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        self._scrolled: list[tuple[Mapping[int, pyte.screens.Char], str]] = []  # lines, and the text of each
        self._written = b""
        self._read_bytes = 0  # of `_written`; the rest is parsed when the screen is read
        self._is_over = False  # the program has ended, and all that it has written was read
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            cwd=folder,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
        self.close()

    def close(self) -> None:
        """Closes the terminal, as closing its window does."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    @property
    def screen(self) -> pyte.Screen:
        """The visible screen."""
        self._stream.feed(self._written[self._read_bytes :])
        self._read_bytes = len(self._written)
        return self._screen

    @property
    def text(self) -> str:
        width, kept = self.screen.columns, self._scrolled
        lines = self._screen.history.top
        if kept and (len(lines) < len(kept) or lines[len(kept) - 1] is not kept[-1][0]):
            kept.clear()  # the scrollback is another one, or its first lines have gone
        for line in islice(lines, len(kept), None):
            kept.append((line, "".join(line[x].data for x in range(width)).rstrip()))
        return "\n".join([*(text for _, text in kept), *(line.rstrip() for line in self._screen.display)])

    def wait_for(self, text: str, times: int = 1) -> None:
        self._read_until(lambda: self.text.count(text) >= times, f"no {text!r}")

    def wait_for_more(self) -> None:
        """Waits until the screen changes."""
        before = self.text
        self._read_until(lambda: self.text != before, "no change")

    def wait_for_match(self, pattern: str) -> None:
        """Waits until the regular expression matches a part of the text."""
        self._read_until(lambda: re.search(pattern, self.text), f"nothing that matches {pattern!r}")

    def set_line_mode(self) -> None:
        """Sets line mode, as a shell does after Ctrl-Z."""
        mode = termios.tcgetattr(self._ours)
        mode[0] |= termios.ICRNL
        mode[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(self._ours, termios.TCSANOW, mode)

    def wait_for_escape(self, sequence: str, times: int = 1) -> None:
        """Waits for an escape sequence in the output."""
        self._read_until(lambda: self._written.count(sequence.encode()) >= times, f"no {sequence!r}")

    def wait_for_end(self) -> int:
        deadline = time.monotonic() + LIMIT_S
        while not self._is_over and self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        self._read(0)
        return self.process.wait(LIMIT_S)

    def _read_until(self, condition: Callable[[], object], failure: str) -> None:
        """Returns when the condition holds. Fails after the limit, or if the program ends first."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert not self._is_over and time.monotonic() < deadline, f"{failure} in:\n{self.text}"
            self._read(0.1)

    def _read(self, timeout_s: float) -> None:
        readable, _, _ = select.select([self._ours], [], [], timeout_s)
        if readable:
            try:
                self._written += os.read(self._ours, 65_536)
            except OSError:  # no program has the other end open
                self._is_over = True


def _take_terminal() -> None:
    """Makes the new terminal that of the new session, whose programs Ctrl-C interrupts, as a shell does.

    A program that runs in the background passes on to its children that it ignores interrupts.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
