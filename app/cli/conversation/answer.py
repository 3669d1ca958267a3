"""Receives one answer: from the event stream onto the screen, and the summary line below it."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

from app.cli.errors import SAME_VERSION, NotOurServer
from app.cli.net.client import ChatClient
from app.cli.net.turn_stream import ConnectionNotice, TurnEvents
from app.cli.net.waiting import wait_explained
from app.cli.output.formatting import count
from app.cli.output.terminal import Terminal
from app.cli.transcripts.message_tree import TreeMessage, checked_id
from app.models.schemas import ChatResponse, DeltaEvent, StartEvent, TextPart, ThinkingEvent, ThinkingPart


@dataclass(slots=True)
class Answer:
    """An answer as far as it has arrived.

    `prefix` is the earlier text that it extends, if any. `was_prefix_shown` says whether the screen has it.
    """

    prefix: str = ""
    was_prefix_shown: bool = True
    added: str = ""
    thinking: str = ""
    start: StartEvent | None = None
    done: ChatResponse | None = None
    was_resumed: bool = False  # after a broken connection
    is_stored: bool = False  # by the server, which was asked to stop it
    admitted: asyncio.Event = field(default_factory=asyncio.Event)  # set by the start event

    @property
    def has_grown(self) -> bool:
        return bool(self.added)

    @property
    def is_kept(self) -> bool:
        """Whether there is a part of an interrupted answer to keep: its text, or what the server has stored,
        which may be thinking alone, or text that has not arrived."""
        return self.has_grown or self.is_stored

    @property
    def model_name(self) -> str | None:
        return self.start.model_name if self.start is not None else None

    @property
    def message(self) -> TreeMessage:
        """The answer as a message, which the caller places in a tree."""
        content = self.prefix + self.added if self.done is None else self.done.response
        return TreeMessage(
            id=checked_id(None if self.start is None else self.start.message_id),
            role="assistant",
            content=content,
            parts=[ThinkingPart(text=self.thinking), TextPart(text=content)] if self.thinking else [],
            timestamp=None if self.done is None else self.done.timestamp,
            model_name=self.model_name,
            finish_reason="interrupted" if self.done is None else self.done.finish_reason,
            usage=None if self.done is None else self.done.usage,
        )

    @property
    def parent_id(self) -> str:
        """The id of the message that it answers; a local one if the server does not say."""
        return checked_id(None if self.start is None else self.start.parent_id)

    @property
    def context_tokens(self) -> int:
        """Tokens used of the model's context; 0 before the answer is complete."""
        if self.done is None or self.done.usage is None:
            return 0
        return self.done.usage.prompt_tokens + self.done.usage.completion_tokens


async def open_answer(
    events: TurnEvents, client: ChatClient, terminal: Terminal
) -> tuple[StartEvent, TurnEvents]:
    """Waits until the server admits the request, for example because its model is loading. Returns the start
    event and the remaining ones."""
    async with wait_explained(client, terminal):
        first = await anext(events)
    if not isinstance(first, StartEvent):
        raise NotOurServer("The stream does not begin with a start event.", SAME_VERSION)
    return first, events


async def show_answer(start: StartEvent, events: TurnEvents, terminal: Terminal, answer: Answer) -> None:
    """Shows the events and collects them in `answer`, which is also valid if this is cancelled."""
    answer.start = start
    answer.admitted.set()
    terminal.heading("Assistant:")
    await asyncio.to_thread(terminal.preload)
    async with aclosing(events), terminal.answer() as view:
        view.wait("…")
        if answer.prefix and answer.was_prefix_shown:
            view.resume(answer.prefix)
        elif answer.prefix:
            view.feed(answer.prefix)
        async for event in events:
            if isinstance(event, ThinkingEvent):
                answer.thinking += event.text
                view.think(event.text)
            elif isinstance(event, DeltaEvent):
                answer.added += event.text
                view.feed(event.text)
            elif isinstance(event, ConnectionNotice):
                answer.was_resumed = True
                view.notice(event.text)
            elif isinstance(event, ChatResponse):
                answer.done = event


def show_summary(terminal: Terminal, answer: Answer, previous_model: str | None, window: int | None) -> None:
    """Prints a line of numbers about the answer, and notes about anything unusual. `window` is the model's
    context size in tokens, if known."""
    if answer.done is None:
        return
    facts = [*_facts(answer.done), *([_context(answer, window)] if answer.context_tokens else [])]
    terminal.note((" · " if terminal.style.symbols else ", ").join(facts))
    if previous_model not in (None, answer.model_name):
        terminal.note(f"This answer is from {answer.model_name}, the previous one from {previous_model}.")
    if answer.done.finish_reason == "interrupted" and not answer.done.response:
        terminal.note(
            "The server ended in the middle of the answer, and has kept none of it. /retry asks again."
        )
    elif answer.was_resumed:
        terminal.note("The connection was lost meanwhile. The answer was picked up where it had stopped.")
    if answer.prefix and not answer.has_grown:
        terminal.note("The model considers its answer complete and added nothing.")
    if answer.done.finish_reason == "length":
        terminal.note("The answer reached its token limit. /continue extends it.")
    if answer.done.omitted_messages:
        terminal.say(
            f"{answer.done.omitted_messages:,} of the oldest messages did not fit into the model's context "
            "and were left out. Use /undo or /new to make room.",
            "yellow",
        )


def _facts(done: ChatResponse) -> list[str]:
    if done.usage is None or done.timings is None:  # another client has stopped it
        return [done.finish_reason]
    speed = done.timings.tokens_per_second
    return [
        count(done.usage.completion_tokens, "token"),
        *([f"{speed:,.0f} tokens/s"] if speed is not None else []),
        f"first after {done.timings.first_token_s:.2f} s",
        *([f"{done.usage.cached_tokens:,} cached"] if done.usage.cached_tokens else []),
    ]


def _context(answer: Answer, window: int | None) -> str:
    return f"context {answer.context_tokens:,}" + (f" of {window:,}" if window is not None else "")
