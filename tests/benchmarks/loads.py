"""The loads: the requests that every target gets, and the figures computed from its replies."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median

from tests.benchmarks.plan import Plan
from tests.benchmarks.targets import Dialogue, Target
from tests.benchmarks.traces import Trace, median_first_token_s, total_tokens_per_s
from tests.benchmarks.vocabulary import Words
from tests.waiting import until

Figures = dict[str, float]
Replies = list["asyncio.Task[None]"]

_TURNS = 4
_SETTLED_PIECES = 8  # that each of several replies must have before anything is measured
_REPLY_TOKENS = 512  # the most, of a reply that is cancelled after the measurement
_REPLIES_LIMIT_S = 600.0
_MARGIN_TOKENS = 80  # of the context, for the chat template
_PREFILL_TOKENS = 512


async def warm_up(target: Target) -> None:
    """Pays the costs of the first request: the connection, and loading the model in other servers."""
    await target.dialogue().say("Hello", 4, Trace())


async def single(target: Target, plan: Plan, messages: Sequence[str]) -> Figures:
    """Conversations of one message, one after another."""
    traces = [await _ask(target.dialogue(), message, plan.tokens) for message in messages]
    return {
        "single.decode": median(trace.tokens_per_s for trace in traces if trace.tokens > 2),
        "single.first": median_first_token_s(traces),
        "single.step": median(trace.tokens / len(trace.arrivals) for trace in traces),
    }


async def users(target: Target, plan: Plan, words: Words, count: int) -> Figures:
    """`count` concurrent conversations of several turns. Each sends the next message after a reply."""

    async def talk() -> list[Trace]:
        dialogue = target.dialogue()
        messages = [words.message(plan.user_message_tokens) for _ in range(plan.user_turns)]
        return [await _ask(dialogue, message, plan.user_tokens) for message in messages]

    dialogues = await asyncio.gather(*(talk() for _ in range(count)))
    traces = [trace for dialogue in dialogues for trace in dialogue]
    first_turns, last_turns = [d[0] for d in dialogues], [d[-1] for d in dialogues]
    figures = {
        "total": total_tokens_per_s(traces),
        "first": median_first_token_s(first_turns),
        "later": median_first_token_s(last_turns),
        "gap": median(gap for trace in traces for gap in trace.gaps(trace.arrivals[0], trace.arrivals[-1])),
    }
    return {f"users{count}.{name}": value for name, value in figures.items()}


async def together(target: Target, plan: Plan, words: Words, window: int, count: int) -> Figures:
    """The rate of `count` concurrent replies while all of them decode. Empty if they never all do."""
    traces = [Trace() for _ in range(count)]
    async with _streaming(target, plan, words, window, traces) as replies:
        if not await _all_reached(traces, _SETTLED_PIECES, replies):
            return {}
        since = time.monotonic()
        if not await _all_reached(traces, _SETTLED_PIECES + plan.user_tokens, replies):
            return {}
        until = time.monotonic()
    tokens = sum(trace.tokens_within(since, until) for trace in traces)
    return {f"users{count}.decode": tokens / (until - since)}


async def prefill(target: Target, words: Words) -> Figures:
    """The first token of one prompt of 512 tokens, of which nothing is cached."""
    trace = await _ask(target.dialogue(), words.message(_PREFILL_TOKENS), 2)
    return {"prefill.first": trace.first_token_s}


async def turns(target: Target, plan: Plan, words: Words, window: int) -> Figures:
    """A conversation of four turns: a short one, two that fill the history, and a short one."""
    room = window - window // 4 - _MARGIN_TOKENS - 2 * plan.message_tokens - 3 * plan.history_reply_tokens
    filling = min(plan.history_tokens, room) // 2
    lengths = (plan.message_tokens, filling, filling, plan.message_tokens)
    runs: list[list[Trace]] = []
    for _ in range(plan.repetitions):
        dialogue = target.dialogue()
        messages = [words.message(length) for length in lengths]
        runs.append([await _ask(dialogue, message, plan.history_reply_tokens) for message in messages])
    firsts = [median_first_token_s([run[turn] for run in runs]) for turn in range(_TURNS)]
    figures = {f"turns.first{turn}": value for turn, value in enumerate(firsts, start=1)}
    last = runs[-1][-1]
    if last.cached_tokens is not None:
        figures["turns.cached"] = last.cached_tokens
    if last.prompt_tokens is not None:
        figures["turns.prompt"] = last.prompt_tokens
    return figures | {"turns.ratio": firsts[-1] / firsts[0]}


async def long_prompt(target: Target, plan: Plan, words: Words, window: int) -> Figures:
    """How a long prompt changes the gaps between the tokens of short conversations."""
    tokens = min(plan.long_tokens, window - _MARGIN_TOKENS - 8)
    traces = [Trace() for _ in range(plan.background_streams)]
    async with _streaming(target, plan, words, window, traces) as replies:
        if not await _all_reached(traces, 2 * _SETTLED_PIECES, replies):
            return {}
        since = max(trace.arrivals[0] for trace in traces)
        long = await _ask(target.dialogue(), words.message(tokens), 4)
    before = [gap for trace in traces for gap in trace.gaps(since, long.began)]
    during = [gap for trace in traces for gap in trace.gaps(long.began, long.arrivals[0])]
    if not during:
        during = [long.first_token_s]  # no stream advanced
    return {
        "long.before": median(before),
        "long.during": median(during),
        "long.worst": max(during),
        "long.ratio": median(during) / median(before),
        "long.first": long.first_token_s,
    }


@asynccontextmanager
async def _streaming(
    target: Target, plan: Plan, words: Words, window: int, traces: Sequence[Trace]
) -> AsyncIterator[Replies]:
    """Runs a short conversation for each trace, and cancels them at the end."""
    reply_tokens = min(_REPLY_TOKENS, window - plan.message_tokens - _MARGIN_TOKENS)
    messages = [words.message(plan.message_tokens) for _ in traces]
    replies = [
        asyncio.create_task(target.dialogue().say(message, reply_tokens, trace))
        for message, trace in zip(messages, traces, strict=True)
    ]
    try:
        yield replies
    finally:
        for reply in replies:
            reply.cancel()
        await asyncio.gather(*replies, return_exceptions=True)


async def _all_reached(traces: Sequence[Trace], pieces: int, replies: Replies) -> bool:
    """Whether all replies got this many pieces before one of them ended. Raises the error of a failed one."""

    def have_all() -> bool:
        return all(len(trace.arrivals) >= pieces for trace in traces)

    def has_one_ended() -> bool:
        return any(reply.done() for reply in replies)

    await until(lambda: have_all() or has_one_ended(), "the replies", _REPLIES_LIMIT_S)
    for reply in replies:
        if reply.done():
            reply.result()
    return have_all() and not has_one_ended()


async def _ask(dialogue: Dialogue, message: str, max_tokens: int) -> Trace:
    trace = Trace()
    await dialogue.say(message, max_tokens, trace)
    return trace
