"""The terminal's input mode, in a process that writes to a pseudo-terminal."""

import os
import signal
import sys
from pathlib import Path

from app.cli.net.server import PROJECT
from tests.cli.client_process import client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.waiting import wait_for

MORE_THAN_A_TERMINAL_HOLDS = 200_000
WRITES_MUCH = f"""
import sys
from app.cli.input.keyboard import quiet_keyboard

with quiet_keyboard():
    sys.stdout.write("." * {MORE_THAN_A_TERMINAL_HOLDS} + "\\n")
    print("all written")
"""


def test_signal_after_suspension_may_interrupt_a_write() -> None:
    command = [sys.executable, "-c", WRITES_MUCH]
    with PseudoTerminal(command, client_environ(PYTHONPATH=str(PROJECT)), columns=2000) as terminal:
        terminal.wait_for("...")
        wait_for(lambda: _is_blocked_in_write(terminal.process.pid))
        terminal.set_line_mode()
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.wait_for("all written")
        terminal.wait_for_escape("\x1b[?2004h", times=2)
        assert terminal.wait_for_end() == 0


def _is_blocked_in_write(pid: int) -> bool:
    return Path(f"/proc/{pid}/syscall").read_text().startswith("1 ")
