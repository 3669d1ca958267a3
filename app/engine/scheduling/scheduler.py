"""Decides which sequences each step computes: queue, token budget, preemption. It does not import torch."""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

from app.engine.scheduling import pass_size
from app.engine.scheduling.sequence import Chunk, TokenSequence

_MIN_SHARED_PREFIX = 64  # ids; computing a shorter prefix twice costs less than waiting for it
_MIN_SAME_PROMPT = 16  # ids of an equal prompt, of which there may be many: several answers to one request


class KVMemory(Protocol):
    """Gives sequences slots for their keys and values. A call that raises leaves its sequence unchanged."""

    def attach(self, sequence: TokenSequence) -> bool:
        """Attach a slot with room for all ids, filled with their longest known prefix.

        Returns False if there is no room now.
        """

    def extend(self, sequence: TokenSequence) -> bool:
        """Make room in the slot for all ids and draft ids. Returns False if there is no room now."""

    def chunk_size(self, sequence: TokenSequence, budget: int) -> int:
        """Returns how many pending ids the next pass computes: at least one, at most `budget` if it can."""

    def release(self, sequence: TokenSequence) -> None:
        """Detach the slot and keep its keys and values for later requests."""

    def discard(self, sequence: TokenSequence) -> None:
        """Detach the slot and drop its keys and values."""


class Scheduler:
    """First come, first served. `running` is in order of admission, so the last sequence is the youngest."""

    def __init__(self, cache: KVMemory, *, max_running: int, step_tokens: int) -> None:
        self._cache = cache
        self._max_running = max_running
        self._step_tokens = step_tokens
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.preemptions = 0
        self.placing: TokenSequence | None = None  # the sequence that the cache last made room for

    def add(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def plan(self, prefill_rows: int | None = None) -> list[Chunk]:
        """Returns this step's work: every decode, then prefill in the rest of the budget, at least one token.

        `prefill_rows` limits the prefill of a step that also decodes, whose rows are cut to a pass size.
        """
        self._make_room()
        decoding = [sequence for sequence in self.running if sequence.pending == 1]
        chunks = [Chunk(sequence, 1, sequence.draft_ids) for sequence in decoding]
        rows = sum(chunk.rows for chunk in chunks)
        budget = max(self._step_tokens - rows, 1)
        if chunks and prefill_rows is not None:
            budget = min(budget, max(pass_size.cut(rows + prefill_rows) - rows, 1))
        prefills = self._prefills()
        while budget > 0 and (sequence := next(prefills, None)) is not None:
            chunks.append(Chunk(sequence, self._cache.chunk_size(sequence, budget)))
            budget -= chunks[-1].count
        return chunks

    def finish(self, sequence: TokenSequence) -> None:
        """End a waiting or running sequence. Its keys and values are kept for later requests."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._cache.release(sequence)
        else:
            self.waiting.remove(sequence)

    def drop(self, sequence: TokenSequence) -> None:
        """End a waiting or running sequence and drop its keys and values, which may be wrong."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._cache.discard(sequence)
        else:
            self.waiting.remove(sequence)

    def _prefills(self) -> Iterator[TokenSequence]:
        """Yields running sequences in prefill, then waiting ones, each just after it was admitted."""
        yield from [sequence for sequence in self.running if sequence.pending > 1]
        while self.waiting and len(self.running) < self._max_running:
            if self._prefix_is_coming(self.waiting[0]):
                return
            self.placing = self.waiting[0]
            if not self._cache.attach(self.placing):
                assert self.running, "the cache holds at least one sequence of any admitted length"
                return
            self.running.append(self.waiting.popleft())
            yield self.running[-1]

    def _prefix_is_coming(self, incoming: TokenSequence) -> bool:
        """Returns whether a running sequence is about to compute a prefix that `incoming` can then copy."""
        if incoming.needs_all_logits:
            return False
        for other in self.running:
            is_same = len(other.ids) == len(incoming.ids) and other.ids == incoming.ids
            reach = other.computed + (_MIN_SAME_PROMPT if is_same else _MIN_SHARED_PREFIX)
            is_prefilling = other.pending > 1 and other.scope == incoming.scope
            if is_prefilling and len(other.ids) >= reach and other.ids[:reach] == incoming.ids[:reach]:
                return True
        return False

    def _make_room(self) -> None:
        """Clear draft ids, then preempt the youngest sequences, until all others have room for their ids."""
        for sequence in list(self.running):
            self.placing = sequence
            if sequence.draft_ids and not self._cache.extend(sequence):
                sequence.clear_draft()
            while sequence in self.running and not self._cache.extend(sequence):
                assert len(self.running) > 1, "the cache holds at least one sequence of any admitted length"
                self._preempt(self.running[-1])

    def _preempt(self, sequence: TokenSequence) -> None:
        """Put the sequence back at the head of the queue. Its keys and values will be computed again."""
        self.preemptions += 1
        self.running.remove(sequence)
        self._cache.discard(sequence)
        self.waiting.appendleft(sequence)
