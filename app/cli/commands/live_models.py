"""Shows the list of models with the progress of loading models, until none is loading.

It only watches: closing it does not stop a load.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.conversation.session import Session
from app.cli.net.waiting import POLL_S
from app.cli.output.live_view import LiveView
from app.cli.output.load_progress import progress_of
from app.cli.output.model_table import in_list_order, loads_of, loads_table, model_table
from app.cli.output.screen_writer import ScreenWriter
from app.models.schemas import LoadProgress

if TYPE_CHECKING:
    from app.cli.output.markdown_stream import Row

HINT = "Ctrl-C closes the list; loading continues."
_FOOTER_ROWS = 2  # for what the user types meanwhile


class LiveModels:
    """The rows of a LiveView. Only the last version of the list is final."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._terminal = session.terminal
        self._console = session.terminal.console

    async def run(self) -> None:
        """Returns once no model is loading. When cancelled, it leaves the current list on the screen."""
        try:
            await (self._print() if self._terminal.style.plain else self._redraw())
        except asyncio.CancelledError:
            self._terminal.note("The server continues loading.")
            raise

    async def _redraw(self) -> None:
        async with LiveView(ScreenWriter(self._console), self, self._terminal.typed_ahead) as view:
            async for _ in self._updates():
                view.change()

    async def _print(self) -> None:
        self._terminal.show(self._table(self._console.width))
        self._terminal.note(HINT)
        with self._terminal.bar() as bar:
            async for loads in self._updates():
                for progress in loads:
                    bar.show(progress_of(progress))
        self._terminal.show(self._table(self._console.width))

    async def _updates(self) -> AsyncIterator[list[LoadProgress]]:
        """Polls the server and yields the models that are loading, until none is."""
        while loads := loads_of(self._session.models.values()):
            yield loads
            await asyncio.sleep(POLL_S)
            await self._session.refresh_models()

    def take(self, width: int) -> "list[Row]":
        return []

    def live(self, width: int) -> "list[Row]":
        """Returns the full list if it fits into the terminal, otherwise a short one.

        A longer list would scroll out of view.
        """
        loads = loads_of(self._session.models.values())
        below = self._rows(Group(loads_table(loads, width), Text(HINT, "dim")), width)
        whole = self.finish(width)
        room = self._console.height - len(below) - _FOOTER_ROWS - 1
        return [*(whole if len(whole) <= room else self._rows(self._table(width, True), width)), *below]

    def finish(self, width: int) -> "list[Row]":
        return self._rows(self._table(width), width)

    def _table(self, width: int, is_short: bool = False) -> RenderableType:
        models = in_list_order(self._session.models.values())
        return model_table(models, self._terminal.style.symbols, width, is_short)

    def _rows(self, shown: RenderableType, width: int) -> "list[Row]":
        return self._console.render_lines(shown, self._console.options.update(width=width), pad=False)
