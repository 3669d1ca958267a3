"""The events of a request come out in order, and pieces of text that waited come out as one."""

import asyncio

import pytest

from app.core.errors import WorkerDied
from app.engine.ipc.event_queue import EventQueue, WorkerEvent
from app.engine.ipc.messages import Accepted, Delta, TokenLogprob, ToolCallRef


def delta(text: str, tokens: int, kind: str = "text", call: ToolCallRef | None = None) -> Delta:
    logprobs = (TokenLogprob(tokens, text.encode(), -0.5),)
    return Delta("a", text, tokens, "thinking" if kind == "thinking" else "text", logprobs, call)


def test_pieces_that_wait_are_joined_within_their_part() -> None:
    first, second = ToolCallRef(0, "x", "find"), ToolCallRef(1, "y", "find")
    queue = EventQueue()
    for event in (
        Accepted("a", 3, 0, 9),
        delta("Hm", 1, "thinking"),
        delta("m", 2, "thinking"),
        delta("Yes", 3),
        delta("{", 4, call=first),
        delta("}", 5, call=first),
        delta("{}", 6, call=second),
    ):
        queue.put(event)

    async def take() -> list[WorkerEvent]:
        return [await queue.get() for _ in range(5)]

    accepted, *taken = asyncio.run(take())
    assert isinstance(accepted, Accepted)
    deltas = [each for each in taken if isinstance(each, Delta)]
    assert [(each.text, each.tokens) for each in deltas] == [("Hmm", 2), ("Yes", 3), ("{}", 5), ("{}", 6)]
    assert [token.token_bytes for token in deltas[0].logprobs] == [b"Hm", b"m"]


def test_a_reader_waits_for_events_and_an_error_comes_after_them() -> None:
    async def read() -> list[WorkerEvent]:
        queue = EventQueue()
        reader = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not reader.done()
        queue.put(delta("a", 1))
        taken = [await reader]
        queue.put(delta("b", 2))  # the first was taken, so that there is nothing to join it with
        queue.put(WorkerDied("The model's worker ended."))
        taken.append(await queue.get())
        with pytest.raises(WorkerDied):
            await queue.get()
        return taken

    assert [each.text for each in asyncio.run(read()) if isinstance(each, Delta)] == ["a", "b"]
