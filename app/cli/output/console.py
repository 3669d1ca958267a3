"""The console that writes all text to the terminal. It removes control characters and ignores markup.

Model names, descriptions, titles and answers come from a server or a file that may be hostile. An escape
sequence in them could change the screen, the window's title or the clipboard.
"""

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.theme import Theme

from app.cli.output.formatting import without_controls


class SafeConsole(Console):
    """Removes control characters from everything that it renders. Markup is shown as plain text."""

    def __init__(
        self,
        file: IO[str] | None = None,
        force_terminal: bool | None = None,
        no_color: bool | None = None,
        theme: Theme | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> None:
        super().__init__(
            file=file,
            force_terminal=force_terminal,
            no_color=no_color,
            theme=theme,
            width=width,
            height=height,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(without_controls(segment.text), segment.style)
