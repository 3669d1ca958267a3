"""Owns the loads: what is asked of a target, and the figures that come of it. The same for every target."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median

from tests.benchmarks.plan import Plan
from tests.benchmarks.targets import ChatFormat, Target
from tests.benchmarks.traces import Trace, median_first_token_s, total_tokens_per_s
from tests.benchmarks.vocabulary import Words

Figures = dict[str, float]
Talkers = list["asyncio.Future[None]"]

_TURNS = 4
_SETTLED_PIECES = 8  # that each of several talkers must have said before anything is measured
_TALK_TOKENS = 512  # at most, of a reply that is ended when enough of it was seen
_MARGIN_TOKENS = 80  # of the window, for what the chat template writes


async def warm_up(target: Target) -> None:
    """What only the first request pays for: a connection, at a peer the model."""
    await target.dialogue().say("Hello", 4, Trace())


async def single(target: Target, plan: Plan, messages: Sequence[str]) -> Figures:
    """One conversation at a time, each with one message."""
    traces = [await _told(target.dialogue(), message, plan.tokens) for message in messages]
    return {
        "single.decode": median(trace.tokens_per_s for trace in traces if trace.tokens > 2),
        "single.first": median_first_token_s(traces),
        "single.step": median(trace.tokens / len(trace.arrivals) for trace in traces),
    }


async def users(target: Target, plan: Plan, words: Words, count: int) -> Figures:
    """So many at once, each with several turns, the next when the last is answered."""

    async def talk() -> list[Trace]:
        dialogue = target.dialogue()
        messages = [words.message(plan.user_message_tokens) for _ in range(plan.user_turns)]
        return [await _told(dialogue, message, plan.user_tokens) for message in messages]

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
    """So many replies at once, measured while every one of them decodes; nothing where they never all do."""
    traces = [Trace() for _ in range(count)]
    async with _talking(target, plan, words, window, traces) as talkers:
        if not await _until_each_said(traces, _SETTLED_PIECES, talkers):
            return {}
        since = time.monotonic()
        if not await _until_each_said(traces, _SETTLED_PIECES + plan.user_tokens, talkers):
            return {}
        until = time.monotonic()
    tokens = sum(trace.tokens_within(since, until) for trace in traces)
    return {f"users{count}.decode": tokens / (until - since)}


async def turns(target: Target, plan: Plan, words: Words, window: int) -> Figures:
    """One conversation of four turns: short, two that fill the history, and short again."""
    room = window - window // 4 - _MARGIN_TOKENS - 2 * plan.message_tokens - 3 * plan.history_reply_tokens
    filling = min(plan.history_tokens, room) // 2
    lengths = (plan.message_tokens, filling, filling, plan.message_tokens)
    runs: list[list[Trace]] = []
    for _ in range(plan.repetitions):
        dialogue = target.dialogue()
        messages = [words.message(length) for length in lengths]
        runs.append([await _told(dialogue, message, plan.history_reply_tokens) for message in messages])
    firsts = [median_first_token_s([run[turn] for run in runs]) for turn in range(_TURNS)]
    figures = {f"turns.first{turn}": value for turn, value in enumerate(firsts, start=1)}
    last = runs[-1][-1]
    if last.cached_tokens is not None:
        figures["turns.cached"] = last.cached_tokens
    if last.prompt_tokens is not None:
        figures["turns.prompt"] = last.prompt_tokens
    return figures | {"turns.ratio": firsts[-1] / firsts[0]}


async def long_prompt(target: Target, plan: Plan, words: Words, window: int) -> Figures:
    """A long prompt arrives while short conversations are being answered: how their pace changes."""
    tokens = min(plan.long_tokens, window - _MARGIN_TOKENS - 8)
    traces = [Trace() for _ in range(plan.talkers)]
    async with _talking(target, plan, words, window, traces) as talkers:
        if not await _until_each_said(traces, 2 * _SETTLED_PIECES, talkers):
            return {}
        since = max(trace.arrivals[0] for trace in traces)
        long = await _told(target.dialogue(), words.message(tokens), 4)
    before = [gap for trace in traces for gap in trace.gaps(since, long.began)]
    during = [gap for trace in traces for gap in trace.gaps(long.began, long.arrivals[0])]
    if not during:
        during = [long.first_token_s]  # all stood still
    return {
        "long.before": median(before),
        "long.during": median(during),
        "long.worst": max(during),
        "long.ratio": median(during) / median(before),
        "long.first": long.first_token_s,
    }


@asynccontextmanager
async def _talking(
    target: Target, plan: Plan, words: Words, window: int, traces: Sequence[Trace]
) -> AsyncIterator[Talkers]:
    """A short conversation for each trace, given up at the end of the block."""
    reply_tokens = min(_TALK_TOKENS, window - plan.message_tokens - _MARGIN_TOKENS)
    messages = [words.message(plan.message_tokens) for _ in traces]
    talks = [
        asyncio.ensure_future(target.dialogue().say(message, reply_tokens, trace))
        for message, trace in zip(messages, traces, strict=True)
    ]
    try:
        yield talks
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def _until_each_said(traces: Sequence[Trace], pieces: int, talkers: Talkers) -> bool:
    """Whether they all came so far before the first of them ended. Raises what went wrong with that one."""
    while any(len(trace.arrivals) < pieces for trace in traces):
        ended = [talker for talker in talkers if talker.done()]
        for talker in ended:
            talker.result()
        if ended:
            return False
        await asyncio.sleep(0.002)
    return True


async def _told(dialogue: ChatFormat, message: str, max_tokens: int) -> Trace:
    trace = Trace()
    await dialogue.say(message, max_tokens, trace)
    return trace
