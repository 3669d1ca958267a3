"""Stops the program for Ctrl-Z at the prompt, and draws the prompt again when the program goes on."""

import contextlib
import os
import signal
from collections.abc import Iterator

from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.key_binding import KeyPressEvent

from app.cli.input.keyboard import loud_keyboard, on_continue


class Suspension:
    """Whether and how the prompt of one line editor was stopped: by Ctrl-Z, or by another program (SIGSTOP),
    of which the prompt learns when it goes on."""

    def __init__(self) -> None:
        self._is_drawing_due = False

    def suspend(self, event: KeyPressEvent) -> None:
        """Stops the process group, as Ctrl-Z does outside of the prompt."""
        event.app.renderer.erase()
        with loud_keyboard():
            os.kill(0, signal.SIGTSTP)
        self._draw_soon(event.app)  # nothing stops a program that no shell waits for

    @contextlib.contextmanager
    def awaited(self, app: "Application[str]") -> Iterator[None]:
        """Inside this context, SIGCONT restores the mode of the terminal, and draws the prompt again
        below what the shell has written."""

        def go_on(number: int, frame: object) -> None:
            if app.is_running:
                app.input.raw_mode().__enter__()  # at its end, the prompt restores the mode of its beginning
                self._draw_soon(app)

        with on_continue(go_on):
            yield

    def _draw_soon(self, app: "Application[str]") -> None:
        """Draws the prompt once the event loop runs. A signal handler may call this."""
        if not self._is_drawing_due and app.loop is not None:
            self._is_drawing_due = True
            app.loop.call_soon_threadsafe(self._draw, app)

    def _draw(self, app: "Application[str]") -> None:
        self._is_drawing_due = False
        if app.is_running:
            app.renderer.reset()
            app.output.write_raw("\r")
            run_in_terminal(lambda: None)  # draws the prompt where the cursor is
