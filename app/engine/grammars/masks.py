"""Computes the grammars' masks of a step in a thread, while the model computes the logits."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

_log = logging.getLogger(__name__)

_LIMIT_S = 5.0  # far beyond what llguidance's own limits allow one step
_TOO_LONG = "response_format takes too long to apply; use a simpler one"


class MaskedReply(Protocol):
    """The grammar of one reply."""

    def prepare(self, draft_ids: Sequence[int]) -> None:
        """Compute the masks of the next token, and of those after the draft ids."""

    def give_up(self, reason: str) -> None:
        """End the reply for this reason. The grammar is not used any more."""


class MaskWorker:
    """Call `start` before the forward pass and `finish` after it. The first grammar starts its thread."""

    def __init__(self, limit_s: float = _LIMIT_S) -> None:
        """`limit_s`: how long a step waits for its masks after the forward pass."""
        self._limit_s = limit_s
        self._executor = ThreadPoolExecutor(1, "masks")
        self._replies: list[tuple[MaskedReply, Sequence[int]]] = []
        self._running: Future[None] | None = None

    def start(self, replies: Iterable[tuple[MaskedReply, Sequence[int]]]) -> None:
        """Compute the masks of each reply, and of its draft ids."""
        self._replies = list(replies)
        self._running = self._executor.submit(_prepare, self._replies) if self._replies else None

    def finish(self) -> None:
        """Wait for the masks. If that takes too long, their replies end, and another thread takes over."""
        if self._running is None:
            return
        try:
            self._running.result(self._limit_s)
        except TimeoutError:
            _log.error("the masks of %d replies took longer than %g s", len(self._replies), self._limit_s)
            for reply, _ in self._replies:
                reply.give_up(_TOO_LONG)
            self._executor.shutdown(wait=False)
            self._executor = ThreadPoolExecutor(1, "masks")
        self._running = None


def _prepare(replies: Sequence[tuple[MaskedReply, Sequence[int]]]) -> None:
    for reply, draft_ids in replies:
        reply.prepare(draft_ids)
