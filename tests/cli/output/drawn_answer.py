"""An answer that is drawn frame by frame into a terminal, and what the terminal shows then."""

import io

import pyte
from rich.console import Console

from app.cli.output.live_answer import AnswerRows
from app.cli.output.live_view import RowScreen
from app.cli.output.screen_writer import ScreenWriter

Frame = tuple[list[str], list[str]]  # scrollback and screen


class DrawnAnswer:
    """An answer in a terminal of its own, drawn frame by frame."""

    def __init__(self, width: int = 40, height: int = 10, folds_thoughts: bool = False) -> None:
        self.now_s = 0.0
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, width=width, height=height, force_terminal=True, color_system="truecolor"
        )
        self.rows = AnswerRows(self.console, folds_thoughts, clock=lambda: self.now_s)
        self.screen = RowScreen(ScreenWriter(self.console), self.rows)

    def frame(self) -> None:
        self.screen.draw(*self.screen.lay_out())

    def finish(self) -> None:
        self.screen.draw_rest(self.screen.lay_out_rest())
        self.screen.end()

    @property
    def written(self) -> str:
        return self.file.getvalue()


def _terminal(width: int = 40, height: int = 10) -> tuple[pyte.HistoryScreen, pyte.Stream]:
    screen = pyte.HistoryScreen(width, height, history=100_000)
    return screen, pyte.Stream(screen)


def frame(written: str, width: int = 40, height: int = 10) -> Frame:
    screen, stream = _terminal(width, height)
    stream.feed("before\r\n" + written.replace("\n", "\r\n"))
    scrolled = ["".join(line[x].data for x in range(width)).rstrip() for line in screen.history.top]
    return scrolled, [line.rstrip() for line in screen.display]


def remaining_rows(written: str, width: int, height: int) -> list[str]:
    """Scrollback and screen together, without the blank rows at the end."""
    scrolled, screen = frame(written, width, height)
    return "\n".join([*scrolled, *screen]).rstrip("\n").split("\n")
