"""Loads a server with concurrent users in several processes, and computes the figures of their replies."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median

from tests.benchmarks.vocabulary import Words
from tests.gpu.http_users import Reply, Work
from tests.server import ROOT

_PROCESSES = 8
_START_S = 1.5  # until all processes have started
_LIMIT_S = 100


def measure(port: int, words: Words, users: int, rounds: int, tokens: tuple[int, int]) -> dict[str, float]:
    """Returns figures of `users` that send so many messages each. `tokens` are those of message and reply."""
    message_tokens, reply_tokens = tokens
    messages = [[words.message(message_tokens) for _ in range(rounds)] for _ in range(users)]
    begin_at = time.monotonic() + _START_S
    processes = [
        _start(Work(port, begin_at, reply_tokens, messages[number::_PROCESSES]))
        for number in range(min(_PROCESSES, users))
    ]
    replies = [reply for process in processes for reply in _replies(process)]
    ends = [reply.arrivals[-1] for reply in replies]
    gaps = sorted(later - earlier for reply in replies for earlier, later in pairwise(reply.arrivals))
    return {
        "decoding, tok/s": _decode_rate(replies, rounds),
        "with prefill, tok/s": sum(reply.tokens for reply in replies) / (max(ends) - begin_at),
        "first token, ms": 1000 * median(reply.arrivals[0] - reply.began for reply in replies),
        "gap, ms": 1000 * median(gaps),
        "gap, 99th percentile, ms": 1000 * gaps[int(0.99 * len(gaps))],
        "tokens of a piece": sum(reply.tokens for reply in replies) / (len(gaps) + len(replies)),
    }


def _start(work: Work) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gpu.http_users"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(work)))
    process.stdin.close()
    return process


def _replies(process: "subprocess.Popen[str]") -> Iterator[Reply]:
    assert process.stdout is not None
    lines = process.stdout.readlines()
    assert process.wait(_LIMIT_S) == 0, "the users failed"
    for line in lines:
        yield Reply(**json.loads(line))


def _decode_rate(replies: Sequence[Reply], rounds: int) -> float:
    """Returns tokens per second while all users decode, the median of the rounds in which they all do."""
    rates = []
    for number in range(rounds):
        together = replies[number::rounds]  # a user's replies follow each other
        since, until = max(each.arrivals[0] for each in together), min(each.arrivals[-1] for each in together)
        if since < until:
            rates.append(sum(_tokens_within(each, since, until) for each in together) / (until - since))
    return median(rates) if rates else float("nan")


def _tokens_within(reply: Reply, since: float, until: float) -> float:
    """Returns an estimate: pieces have words, and each word about the same share of the tokens."""
    words = sum(words for at, words in zip(reply.arrivals, reply.words, strict=True) if since < at <= until)
    return words * reply.tokens / sum(reply.words)
