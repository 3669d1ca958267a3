"""Holds many conversations over a cluster while its replicas change, and checks that nothing was lost."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from tests.deploy.cluster.cluster import Cluster
from tests.deploy.cluster.turns import WAYS, Conversation
from tests.http_options import LOCAL
from tests.waiting import until

AT_ONCE = 12  # conversations with a turn that is open
MESSAGES = (
    "Hello! I am client number {number} of the cluster, and this is the first of my four questions: "
    "what is the capital of France?",
    "What is seven plus {number}?",
    "What is my number?",
    "Thank you, and goodbye!",
)
SETTLED = 2  # turns that are over before the replicas change
CHANGE_S = 240.0  # until the turns before a change are over
SHARE_CACHED = 0.8  # of a first turn's prompt, which the second one must find in the cache

Change = Callable[[Cluster], object]


@dataclass(frozen=True)
class LoadReport:
    """What the conversations saw."""

    conversations: Sequence[Conversation]
    seconds: float

    @property
    def turns(self) -> int:
        return sum(len(each.turns) for each in self.conversations)

    @property
    def cached_share(self) -> float:
        """The share of second turns that found the prompt of the first one in the cache."""
        found = [
            second.cached_tokens >= SHARE_CACHED * first.prompt_tokens
            for first, second, *_ in (each.turns for each in self.conversations)
        ]
        return sum(found) / len(found)

    def summary(self) -> str:
        """One line for people."""
        failures = sum(len(each.failures) for each in self.conversations)
        broken = sum(each.broken_streams for each in self.conversations)
        again = sum(each.offered_again for each in self.conversations)
        interrupted = sum(
            turn.finish_reason == "interrupted" for each in self.conversations for turn in each.turns
        )
        seconds = sorted(turn.seconds for each in self.conversations for turn in each.turns)
        return (
            f"{len(self.conversations)} conversations, {self.turns} turns in {self.seconds:.1f} s "
            f"(p50 {seconds[len(seconds) // 2]:.2f} s, p95 {seconds[len(seconds) * 95 // 100]:.2f} s), "
            f"{failures} attempts repeated, {broken} broken streams, {again} turns offered again, "
            f"{interrupted} interrupted, {self.cached_share:.1%} of second turns cached"
        )


def hold_conversations(cluster: Cluster, count: int, changes: Sequence[Change]) -> LoadReport:
    """Holds `count` conversations of four turns. The changes happen one after the other, evenly spread over
    the last two turns."""
    return asyncio.run(_hold(cluster, count, changes))


async def _hold(cluster: Cluster, count: int, changes: Sequence[Change]) -> LoadReport:
    limits = httpx.Limits(max_connections=2 * AT_ONCE, max_keepalive_connections=2 * AT_ONCE)
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=cluster.url, limits=limits, **LOCAL) as http:
        held = [Conversation(http, number, WAYS[number % len(WAYS)]) for number in range(count)]
        gate = asyncio.Semaphore(AT_ONCE)
        for at, message in enumerate(MESSAGES[:SETTLED]):
            await asyncio.gather(*(_ask(gate, each, message) for each in held))
            assert all(len(each.turns) == at + 1 for each in held)
        changing = asyncio.create_task(_change(cluster, held, changes))
        for message in MESSAGES[SETTLED:]:
            await asyncio.gather(*(_ask(gate, each, message) for each in held))
        await changing
        report = LoadReport(held, time.monotonic() - began)
        for each in held:
            check_stored(each, await each.stored())
        return report


async def _ask(gate: asyncio.Semaphore, conversation: Conversation, message: str) -> None:
    async with gate:
        await conversation.ask(message.format(number=conversation.number))


async def _change(cluster: Cluster, held: Sequence[Conversation], changes: Sequence[Change]) -> None:
    """Makes the changes, each after the same number of further turns."""
    further = (len(MESSAGES) - SETTLED) * len(held)
    for number, change in enumerate(changes, 1):
        await _turns_over(held, SETTLED * len(held) + number * further // (len(changes) + 1))
        await asyncio.to_thread(change, cluster)


async def _turns_over(held: Sequence[Conversation], count: int) -> None:
    await until(lambda: sum(len(each.turns) for each in held) >= count, f"{count} turns", CHANGE_S)


def check_stored(conversation: Conversation, stored: dict[str, object]) -> None:
    """Each answered turn is stored once, with its text."""
    messages = stored["messages"]
    assert isinstance(messages, list)
    asked = [each["content"] for each in messages if each["role"] == "user"]
    assert asked == [turn.message for turn in conversation.turns], conversation
    replies = {each["id"]: each["content"] for each in messages if each["role"] == "assistant"}
    for turn in conversation.turns:
        assert replies.get(turn.message_id) == turn.text, (turn, replies)
    assert all(ends <= 1 for ends in conversation.ends), conversation
