"""Owns who runs: the waiting queue, the running sequences, a step's token budget, preemption, cancellation.

Knows token ids and numbers only: no torch, no text, no model. Memory is asked for through `Memory`.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

_WORTH_WAITING = 64  # ids of a common prefix; for fewer it costs less to compute them twice


@dataclass(slots=True, eq=False)
class TokenSequence:
    """The token ids of one request, prompt and reply, and how many of them are in the KV cache."""

    request_id: str
    ids: list[int]
    scope: str = ""
    computed: int = 0  # leading ids whose keys and values are in `slot`
    cached: int | None = None  # ids found in the cache at first admission; None: never admitted
    slot: Any = None  # the memory's own handle; None while waiting
    guess: tuple[int, ...] = ()  # ids that may follow, to be checked in the next step

    @property
    def pending(self) -> int:
        """Ids that the next forward passes must compute; 1 while decoding."""
        return len(self.ids) - self.computed


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `count` pending ids of a sequence, part of this step's forward pass."""

    sequence: TokenSequence
    count: int
    guess: tuple[int, ...] = ()  # computed behind the last pending id

    @property
    def rows(self) -> int:
        return self.count + len(self.guess)

    @property
    def is_last(self) -> bool:
        """Whether nothing stays pending after it, so that its last row gives the next token."""
        return self.count == self.sequence.pending


class Memory(Protocol):
    """Where keys and values live. What it raises leaves the sequence that it was asked for as it was."""

    def attach(self, sequence: TokenSequence) -> bool:
        """Give the sequence a slot with room for its ids and its longest known prefix; False: no room now."""

    def extend(self, sequence: TokenSequence) -> bool:
        """Make room for all ids and the guess of a sequence that has a slot; False: no room now."""

    def release(self, sequence: TokenSequence) -> None:
        """Take the slot back and keep what is computed for later requests."""

    def discard(self, sequence: TokenSequence) -> None:
        """Take the slot back and forget it."""


class Scheduler:
    """First come, first served. Running sequences are in order of admission, so the last is the youngest."""

    def __init__(self, memory: Memory, *, max_running: int, step_tokens: int) -> None:
        self._memory = memory
        self._max_running = max_running
        self._step_tokens = step_tokens
        self.waiting: deque[TokenSequence] = deque()
        self.running: list[TokenSequence] = []
        self.placing: TokenSequence | None = None  # whom the memory was last asked for: guilty if it raised

    def add(self, sequence: TokenSequence) -> None:
        self.waiting.append(sequence)

    def plan(self, prefill_rows: int | None = None) -> list[Chunk]:
        """This step's work: every decode, then prefill within the rest of the budget, at least one token.

        Beside decodes there are no more than `prefill_rows` of prefill, if that is given.
        """
        self._make_room()
        decoding = [sequence for sequence in self.running if sequence.pending == 1]
        chunks = [Chunk(sequence, 1, sequence.guess) for sequence in decoding]
        budget = max(self._step_tokens - sum(chunk.rows for chunk in chunks), 1)
        if chunks and prefill_rows is not None:
            budget = min(budget, prefill_rows)
        prefills = self._prefills()
        while budget > 0 and (sequence := next(prefills, None)) is not None:
            chunks.append(Chunk(sequence, min(sequence.pending, budget)))
            budget -= chunks[-1].count
        return chunks

    def finish(self, sequence: TokenSequence) -> None:
        """The sequence, waiting or running, is over; its keys and values stay with the memory."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._memory.release(sequence)
        else:
            self.waiting.remove(sequence)

    def drop(self, sequence: TokenSequence) -> None:
        """The sequence is over and its keys and values, if it has any, are not to be trusted."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._memory.discard(sequence)
        else:
            self.waiting.remove(sequence)

    def _prefills(self) -> Iterator[TokenSequence]:
        """Running sequences with more than one pending id, then waiting ones, admitted when asked for."""
        yield from [sequence for sequence in self.running if sequence.pending > 1]
        while self.waiting and len(self.running) < self._max_running:
            if self._prefix_is_coming(self.waiting[0]):
                return
            self.placing = self.waiting[0]
            if not self._memory.attach(self.placing):
                assert self.running, "the memory holds at least one sequence of any admitted length"
                return
            self.running.append(self.waiting.popleft())
            yield self.running[-1]

    def _prefix_is_coming(self, incoming: TokenSequence) -> bool:
        """Whether a running sequence is about to compute what the newcomer can copy after this step."""
        for other in self.running:
            reach = other.computed + _WORTH_WAITING
            is_on_it = other.pending > 1 and other.scope == incoming.scope
            if is_on_it and len(other.ids) >= reach and other.ids[:reach] == incoming.ids[:reach]:
                return True
        return False

    def _make_room(self) -> None:
        """Preempt from the youngest until every running sequence has room for its ids; guesses go first."""
        for sequence in list(self.running):
            self.placing = sequence
            if sequence.guess and not self._memory.extend(sequence):
                sequence.guess = ()
            while sequence in self.running and not self._memory.extend(sequence):
                assert len(self.running) > 1, "the memory holds at least one sequence of any admitted length"
                self._preempt(self.running[-1])

    def _preempt(self, sequence: TokenSequence) -> None:
        """Back to the head of the queue; what was computed is dropped and computed again later."""
        self.running.remove(sequence)
        self._memory.discard(sequence)
        sequence.guess = ()
        self.waiting.appendleft(sequence)
