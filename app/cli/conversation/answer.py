"""Owns one answer as it grows: from the event stream onto the screen, and what is said of it afterwards."""

import asyncio
import time
from contextlib import aclosing
from dataclasses import dataclass, field

from app.cli.errors import NotOurServer
from app.cli.net.client import ChatClient, ServerEvents
from app.cli.output.answer_view import AnswerView
from app.cli.output.formatting import count
from app.cli.output.load_progress import explained
from app.cli.output.terminal import Terminal
from app.models.schemas import ChatResponse, DeltaEvent, StartEvent, ThinkingEvent, TranscriptMessage


@dataclass(slots=True)
class Answer:
    """`begun` is the text that the answer extends; `thoughts` is what the model said to itself before it."""

    begun: str = ""
    added: str = ""
    thoughts: str = ""
    thought_s: float = 0.0
    start: StartEvent | None = None
    done: ChatResponse | None = None
    admitted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_grown(self) -> bool:
        return bool(self.added)

    @property
    def model_name(self) -> str | None:
        return self.start.model_name if self.start is not None else None

    @property
    def message(self) -> TranscriptMessage:
        content = self.begun + self.added if self.done is None else self.done.response
        reason = "interrupted" if self.done is None else self.done.finish_reason
        return TranscriptMessage(
            role="assistant",
            content=content,
            timestamp=None if self.done is None else self.done.timestamp,
            model_name=self.model_name,
            finish_reason=reason,
        )

    @property
    def context_used(self) -> int:
        """Tokens of the model's window; 0 while the server has not told."""
        if self.done is None:
            return 0
        return self.done.usage.prompt_tokens + self.done.usage.completion_tokens


async def opened(
    events: ServerEvents, client: ChatClient, terminal: Terminal
) -> tuple[StartEvent, ServerEvents]:
    """The stream once the server has admitted the request, which may have to wait for its model."""
    async with explained(client, terminal):
        first = await anext(events)
    if not isinstance(first, StartEvent):
        raise NotOurServer(
            "The stream does not begin with a start.", "Client and server must be of one version."
        )
    return first, events


async def show(start: StartEvent, events: ServerEvents, terminal: Terminal, reply: Answer) -> None:
    """Feeds the answer to the screen and to `reply`, which holds what came also when this is cut short."""
    reply.start = start
    reply.admitted.set()
    terminal.heading("Assistant:")
    await asyncio.to_thread(terminal.load_ahead)
    async with aclosing(events), terminal.answer() as view:
        view.wait("…")
        if reply.begun:
            view.feed(reply.begun)
        await _follow(events, view, reply)


async def _follow(events: ServerEvents, view: AnswerView, reply: Answer) -> None:
    began = time.monotonic()
    async for event in events:
        if isinstance(event, ThinkingEvent):
            reply.thoughts += event.text
            reply.thought_s = time.monotonic() - began
            view.think(event.text)
        elif isinstance(event, DeltaEvent):
            reply.added += event.text
            view.feed(event.text)
        elif isinstance(event, ChatResponse):
            reply.done = event


def show_facts(terminal: Terminal, reply: Answer, answered_before: str | None, window: int | None) -> None:
    """One line of numbers, and what else there is to know about the answer."""
    if reply.done is None:
        return
    facts = [*_numbers(reply.done), _context(reply, window)]
    terminal.note((" · " if terminal.style.symbols else ", ").join(facts))
    if answered_before not in (None, reply.model_name):
        terminal.note(f"Answered by {reply.model_name}; before it was {answered_before}.")
    if reply.begun and not reply.has_grown:
        terminal.note("The model takes its answer for finished, and added nothing.")
    if reply.done.finish_reason == "length":
        terminal.note("The answer reached its limit of tokens: /continue goes on.")
    if reply.done.omitted_messages:
        terminal.say(
            f"{reply.done.omitted_messages:,} of the oldest messages no longer fit and were left out: "
            "/undo or /new makes room.",
            "yellow",
        )


def _numbers(done: ChatResponse) -> list[str]:
    speed = done.timings.tokens_per_second
    return [
        count(done.usage.completion_tokens, "token"),
        *([f"{speed:,.0f} tokens/s"] if speed is not None else []),
        f"first after {done.timings.first_token_s:.2f} s",
        *([f"{done.usage.cached_tokens:,} cached"] if done.usage.cached_tokens else []),
    ]


def _context(reply: Answer, window: int | None) -> str:
    return f"context {reply.context_used:,}" + (f" of {window:,}" if window is not None else "")
