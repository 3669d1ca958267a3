"""Asks several models a question at once and shows their answers side by side."""

import asyncio
import contextlib
from collections.abc import Sequence

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from app.cli.conversation.server.server_messages import to_upload
from app.cli.conversation.session import Session
from app.cli.errors import ClientError
from app.cli.output.formatting import count, without_controls
from app.cli.output.live_view import LiveView
from app.cli.output.markdown_stream import MarkdownStream, Row
from app.cli.output.screen_writer import ScreenWriter
from app.cli.transcripts.message_tree import TreeMessage
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    DeltaEvent,
    NewChatRequest,
    StartEvent,
    ThinkingEvent,
)

GAP = " │ "
MIN_COLUMN_WIDTH = 24  # with less room, the answers are shown one below the other


class Column:
    """One model's answer so far, and its status or error."""

    def __init__(self, model_name: str) -> None:
        self.model_name = model_name
        self.text = ""
        self.status = "waiting..."
        self.is_over = False

    def rows(self, console: Console, width: int) -> list[Row]:
        heading = _folded([Segment(self.model_name, Style(bold=True))], width)
        stream = MarkdownStream(console)
        stream.feed(without_controls(self.text))
        answer = [part for row in stream.finish(width) for part in _folded(row, width)]
        return [*heading, *answer, *self._status_rows(console, width)]

    def _status_rows(self, console: Console, width: int) -> list[Row]:
        if not self.status:
            return []
        style = "red" if self.is_over and not self.text else "dim"
        lines = Text(self.status, style).wrap(console, width)
        return [[s for s in line.render(console) if s.text] for line in lines]


class SideBySide:
    """The rows of a LiveView: the columns beside each other if there is room. All stay live to the end."""

    def __init__(self, console: Console, columns: Sequence[Column]) -> None:
        self._console = console
        self._columns = columns

    def take(self, width: int) -> list[Row]:
        return []

    def live(self, width: int) -> list[Row]:
        each = (width - len(GAP) * (len(self._columns) - 1)) // len(self._columns)
        if each < MIN_COLUMN_WIDTH:
            return [row for column in self._columns for row in (*column.rows(self._console, width), [])]
        cells = [column.rows(self._console, each) for column in self._columns]
        return [_joined(cells, at, each) for at in range(max(map(len, cells)))]

    def finish(self, width: int) -> list[Row]:
        return self.live(width)


def _folded(row: Row, width: int) -> list[Row]:
    """Breaks a row of code, or a name, that is wider than its column."""
    length = sum(segment.cell_length for segment in row)
    if length <= width:
        return [row]
    cuts = [*range(width, length, width), length]
    return [list(part) for part in Segment.divide(row, cuts)]


def _joined(columns: Sequence[Sequence[Row]], at: int, width: int) -> Row:
    joined: Row = []
    for number, rows in enumerate(columns):
        row = list(rows[at]) if at < len(rows) else []
        if number < len(columns) - 1:
            row = Segment.adjust_line_length(row, width) + [Segment(GAP, Style(dim=True))]
        joined += row
    return joined


class Comparison:
    """Gives each model a conversation of its own on the server and deletes it afterwards."""

    def __init__(self, session: Session, model_names: Sequence[str], question: str = "") -> None:
        """Without a question, the last one of the conversation is asked again."""
        self._session = session
        self._columns = [Column(name) for name in model_names]
        self._question = question

    async def run(self) -> None:
        terminal = self._session.terminal
        if terminal.style.plain:
            return await self._run_plain()
        rows = SideBySide(terminal.console, self._columns)
        view = LiveView(ScreenWriter(terminal.console), rows, terminal.typed_ahead)
        async with view, asyncio.TaskGroup() as group:
            view.change()
            for column in self._columns:
                group.create_task(self._answer(column, view))

    async def _run_plain(self) -> None:
        """One model after the other, because nothing can be overwritten."""
        terminal = self._session.terminal
        for column in self._columns:
            terminal.say(f"{column.model_name}:", "bold")
            await self._answer(column, None)
            if column.text:
                async with terminal.answer() as view:
                    view.feed(column.text)
            terminal.note(column.status)

    async def _answer(self, column: Column, view: LiveView | None) -> None:
        try:
            await self._ask(column, view)
        except ClientError as error:
            column.status = " ".join(filter(None, (error.message, error.hint)))
        except asyncio.CancelledError:
            column.status = "stopped"
            raise
        finally:
            column.is_over = True
            if view is not None:
                view.change()

    async def _ask(self, column: Column, view: LiveView | None) -> None:
        client, transcript = self._session.client, self._session.transcript
        history, question = transcript.messages, self._question
        if not question:
            *history, last = _up_to_last_question(transcript.messages)
            question = last.content
        chat = await client.new_chat(
            NewChatRequest(
                system_prompt=transcript.system_prompt or None,
                model_name=column.model_name,
                messages=to_upload(history),
            )
        )
        request = ChatRequest(
            message=question,
            conversation_id=chat.conversation_id,
            model_name=column.model_name,
            stream=True,
            **self._session.settings.values,
        )
        try:
            async with contextlib.aclosing(client.chat(request)) as events:
                async for event in events:
                    _take(event, column)
                    if view is not None:
                        view.change()
        finally:
            with contextlib.suppress(ClientError):
                await client.delete(chat.conversation_id)


def _take(event: object, column: Column) -> None:
    if isinstance(event, StartEvent):
        column.status = "reading the prompt..."
    elif isinstance(event, ThinkingEvent):
        column.status = "thinking..."
    elif isinstance(event, DeltaEvent):
        column.status = ""
        column.text += event.text
    elif isinstance(event, ChatResponse):
        column.status = _figures(event)


def _figures(reply: ChatResponse) -> str:
    if reply.usage is None or reply.timings is None:  # another client has stopped it
        return reply.finish_reason
    speed = reply.timings.tokens_per_second
    rate = "" if speed is None else f", {speed:,.0f} tokens/s"
    return f"{count(reply.usage.completion_tokens, 'token')}{rate}"


def _up_to_last_question(messages: list[TreeMessage]) -> list[TreeMessage]:
    last = max(at for at, message in enumerate(messages) if message.role == "user")
    return messages[: last + 1]
