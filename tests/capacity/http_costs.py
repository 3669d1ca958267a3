"""Measures the processor time of a running server's API process, and of the client, around the steps."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import anyio
import psutil  # type: ignore[import-untyped]  # ships no types

from tests.benchmarks.targets import Dialogue, ServerTarget
from tests.benchmarks.traces import Trace
from tests.capacity.prompts import PromptText

_SETTLING_S = 0.05  # for what a server does after a reply
_MESSAGE_TOKENS = 30
_SHORT, _LONG = 2, 48  # tokens of a reply
_STREAMS = 8
GAP_TOKENS, _GAP_REPLIES = 48, 5
_NANOSECONDS = 1e-9


@dataclass(frozen=True, slots=True)
class HttpCosts:
    """Processor seconds of the API process, of each request and each token, and of the client."""

    request_s: float
    finish_s: float
    token_s: float
    client_request_s: float
    client_token_s: float
    gap_s: float  # by the clock, between the tokens of a single reply


@dataclass(frozen=True, slots=True)
class _Spent:
    api_s: float
    client_s: float

    def __sub__(self, other: "_Spent") -> "_Spent":
        return _Spent(self.api_s - other.api_s, self.client_s - other.client_s)


class _FirstPiece(Trace):
    """A trace that notes what was spent up to the first piece."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__()
        self.process = process
        self.spent: _Spent | None = None

    def piece(self, tokens: int = 1) -> None:
        super().piece(tokens)
        if self.spent is None:
            self.spent = _spent(self.process)


async def measure_http(target: ServerTarget, server_pid: int, text: PromptText, requests: int) -> HttpCosts:
    """Measures single short replies, one after another, and then several long ones together."""
    process = psutil.Process(server_pid)
    begins, ends = [], []
    for _ in range(requests):
        before, trace = _spent(process), _FirstPiece(process)
        await target.dialogue().say(text.message(_MESSAGE_TOKENS), _SHORT, trace)
        await anyio.sleep_until(anyio.current_time() + _SETTLING_S)
        assert trace.spent is not None, "a reply without tokens"
        begins.append(trace.spent - before)
        ends.append(_spent(process) - trace.spent)
    request_s = sum(spent.api_s for spent in begins) / requests
    finish_s = sum(spent.api_s for spent in ends) / requests
    client_request_s = sum(spent.client_s for spent in (*begins, *ends)) / requests
    rounds = max(1, requests // _STREAMS)
    streams = await _streams(target, process, text, rounds)
    tokens = rounds * _STREAMS * (_LONG - _SHORT)
    fixed = rounds * _STREAMS
    return HttpCosts(
        request_s=request_s,
        finish_s=finish_s,
        token_s=max(0.0, streams.api_s - fixed * (request_s + finish_s)) / tokens,
        client_request_s=client_request_s,
        client_token_s=max(0.0, streams.client_s - fixed * client_request_s) / tokens,
        gap_s=await _gap_s(target, text),
    )


async def _gap_s(target: ServerTarget, text: PromptText) -> float:
    """Returns the median of single replies of GAP_TOKENS tokens to messages of as many."""
    gaps = []
    for _ in range(_GAP_REPLIES):
        trace = Trace()
        await target.dialogue().say(text.message(GAP_TOKENS), GAP_TOKENS, trace)
        gaps.append(1 / trace.tokens_per_s)
    return median(gaps)


async def _streams(target: ServerTarget, process: psutil.Process, text: PromptText, rounds: int) -> _Spent:
    async def say(dialogue: Dialogue) -> None:
        await dialogue.say(text.message(_MESSAGE_TOKENS), _LONG, Trace())

    before = _spent(process)
    for _ in range(rounds):
        await asyncio.gather(*(say(target.dialogue()) for _ in range(_STREAMS)))
    await anyio.sleep_until(anyio.current_time() + _SETTLING_S)
    return _spent(process) - before


def _spent(process: psutil.Process) -> _Spent:
    return _Spent(_processor_s(process), time.process_time())


def _processor_s(process: psutil.Process) -> float:
    """Returns the seconds that the process's threads have run: to the nanosecond on Linux."""
    files = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    exact = sum(int(file.read_text().split()[0]) for file in files) * _NANOSECONDS
    times = process.cpu_times()
    return exact or float(times.user + times.system)
