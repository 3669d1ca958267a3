"""Keeps the caches of models that cannot be packed within a byte budget: one per sequence.

A cache is reused by a prompt that continues from its end; one that can be cropped, also from the middle. For
the others, a copy is kept shortly before the end of each prompt. Caches of finished sequences are evicted,
least recently used first, when running sequences need the room.
"""

import logging
from dataclasses import dataclass

import numpy as np

from app.engine.kv.prefix_index import Ids
from app.engine.kv.sequence_bytes import SequenceBytes
from app.engine.own_cache.kept_states import KeptStates
from app.engine.own_cache.sequence_state import SequenceState
from app.engine.scheduling.sequence import TokenSequence

_log = logging.getLogger(__name__)

_BLOCK = 64  # tokens; reservations are for multiples of it
_EXPENDABLE_TAIL = 16  # tokens; a kept cache with at most this many beyond the prefix is taken over
_CHECKPOINT_TAIL = 16  # tokens that a generation prompt may take, which history shows differently
_SHORTEST_CHECKPOINT = 32  # new tokens; cutting their pass in two takes as long as reading 13 to 22


@dataclass(slots=True, eq=False)
class _Running:
    """A running sequence's cache. `checkpoint` is the number of ids at which a copy is to be kept."""

    state: SequenceState
    prompt: Ids
    reserved: int  # bytes
    checkpoint: int | None


class OwnCaches:
    """The scheduler's KVMemory. `budget_bytes` must hold at least one sequence of `max_tokens` ids.

    `is_divisible`: whether passes over several ids are right after the beginning of a sequence, too. With
    `has_checkpoints`, a cache is copied before the end of its prompt, because it cannot be cropped later.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        sequence_bytes: SequenceBytes,
        max_tokens: int,
        is_divisible: bool = True,
        has_checkpoints: bool = True,
    ) -> None:
        assert budget_bytes >= sequence_bytes.of(max_tokens)
        self._budget = budget_bytes
        self._sequence_bytes = sequence_bytes
        self._max_tokens = max_tokens
        self.is_divisible = is_divisible
        self.single_cost = 1.0  # of an id that is read by itself, in ids of a longer pass
        self._has_checkpoints = has_checkpoints
        self._running: dict[TokenSequence, _Running] = {}
        self._kept = KeptStates()
        self._reserved_bytes = 0
        self._padding_bytes = 0  # of joint caches

    @property
    def used_bytes(self) -> int:
        return self._unkept_bytes + self._kept.nbytes

    @property
    def most_padding(self) -> int:
        """How many ids of padding fit beside the running sequences."""
        return (self._budget - self._reserved_bytes) // max(self._sequence_bytes.per_token, 1)

    def hold_padding(self, ids: int) -> None:
        """Count the padding of the joint caches, at most `most_padding`, and evict kept caches for it."""
        self._padding_bytes = 0
        nbytes = ids * self._sequence_bytes.per_token
        self._evict_for(nbytes)
        self._padding_bytes = nbytes

    @property
    def kept_states(self) -> list[SequenceState]:
        """The caches kept for later prompts, least recently used first."""
        return self._kept.states

    def state_of(self, sequence: TokenSequence) -> SequenceState:
        return self._running[sequence].state

    def attach(self, sequence: TokenSequence) -> bool:
        """See KVMemory. The last id always stays pending, because its logits are needed."""
        reserved = self._bytes_for(len(sequence.ids))
        if self._reserved_bytes + reserved > self._budget:
            return False
        self._index_prompts()
        ids = np.array(sequence.ids, np.int64)
        usable = ids[:0] if sequence.needs_all_logits else ids[:-1]
        state, shared = self._reuse(usable, sequence.scope, reserved)
        self._evict_for(reserved)
        sequence.begin(shared)
        checkpoint = self._checkpoint(sequence)
        self._running[sequence] = _Running(state, ids, reserved, checkpoint)
        self._reserved_bytes += reserved
        return True

    def extend(self, sequence: TokenSequence) -> bool:
        """See KVMemory. A sequence at its checkpoint has its cache copied first."""
        running = self._running[sequence]
        if running.checkpoint == sequence.computed:
            running.checkpoint = None
            self._keep_copy(running.state, running.prompt[: sequence.computed])
        more = max(0, self._bytes_for(len(sequence.ids)) - running.reserved)
        if self._reserved_bytes + more > self._budget:
            return False
        self._evict_for(more)
        running.reserved += more
        self._reserved_bytes += more
        return True

    def chunk_size(self, sequence: TokenSequence, budget: int) -> int:
        """See KVMemory. A chunk ends at the checkpoint; an indivisible prompt is one chunk."""
        checkpoint = self._running[sequence].checkpoint
        count = sequence.longest_chunk
        if checkpoint is not None and sequence.computed < checkpoint:
            count = min(count, checkpoint - sequence.computed)
        if self.is_divisible:
            return min(count, budget)
        return count if sequence.computed == 0 and not sequence.needs_all_logits else 1

    def release(self, sequence: TokenSequence) -> None:
        """See KVMemory."""
        running = self._detach(sequence)
        if sequence.computed > 0 and sequence.is_kept and not running.state.is_empty:
            ids = np.array(sequence.ids[: sequence.computed], np.int64)
            try:
                self._keep(running.state, ids)
            except (RuntimeError, MemoryError):  # a row of a joint cache is copied, which takes memory
                _log.exception("the cache of a finished sequence could not be kept")

    def discard(self, sequence: TokenSequence) -> None:
        self._detach(sequence)
        sequence.rewind()

    def forget_finished(self) -> None:
        """Drop every cache that no running sequence uses."""
        self._kept.shrink(-1)

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        assert self._reserved_bytes == sum(running.reserved for running in self._running.values())
        assert self.used_bytes <= self._budget
        self._kept.check_integrity(len(self._running))

    @property
    def _unkept_bytes(self) -> int:
        return self._reserved_bytes + self._padding_bytes

    def _bytes_for(self, tokens: int) -> int:
        return self._sequence_bytes.of(min(-(-tokens // _BLOCK) * _BLOCK, self._max_tokens))

    def _index_prompts(self) -> None:
        """Let new sequences find what running ones have read of their prompts, if that can be cropped."""
        for sequence, running in self._running.items():
            computed = min(sequence.computed, len(running.prompt))
            if computed > 0 and running.state.can_crop(sequence.computed):
                running.state.tokens = sequence.computed
                self._kept.index.put(running.state, running.prompt[:computed])
            else:
                self._kept.index.remove(running.state)

    def _reuse(self, ids: Ids, scope: str, reserved: int) -> tuple[SequenceState, int]:
        """Returns a cache of leading ids for a new sequence, and how many it has read."""
        donor, shared = self._kept.donor(ids, scope)
        if donor is None or not self._is_worth_it(len(ids), shared):
            return SequenceState(scope), 0
        surplus = donor.tokens - shared
        if donor in self._kept:
            self._kept.touch(donor)
            has_room = self._reserved_bytes + reserved + donor.nbytes <= self._budget
            if not has_room or (donor.can_always_crop and surplus <= _EXPENDABLE_TAIL):
                self._kept.forget(donor)
                donor.crop(surplus)
                return donor, shared
        state = donor.copy()
        state.crop(surplus)
        return state, shared

    def _is_worth_it(self, ids: int, shared: int) -> bool:
        """Returns whether reading the rest takes less time than reading all ids in one pass."""
        return self.is_divisible or (ids - shared) * self.single_cost <= ids

    def _checkpoint(self, sequence: TokenSequence) -> int | None:
        """Returns where to copy the cache, so that a prompt with another end can continue from there."""
        tail = _CHECKPOINT_TAIL if self.is_divisible else 0  # what follows it is read id by id otherwise
        place = len(sequence.ids) - 1 - tail
        is_kept = self._has_checkpoints and sequence.is_kept and not sequence.needs_all_logits
        return place if is_kept and place - sequence.computed >= _SHORTEST_CHECKPOINT else None

    def _keep_copy(self, state: SequenceState, ids: Ids) -> None:
        """Keep a copy of the cache, if there is memory for it without the caches of finished sequences."""
        if self._unkept_bytes + self._sequence_bytes.of(len(ids)) > self._budget:
            return
        copy = self._copied(state)
        if copy is None:
            self.forget_finished()
            copy = self._copied(state)
        if copy is not None:
            self._keep(copy, ids)

    def _copied(self, state: SequenceState) -> SequenceState | None:
        try:
            return state.copy()
        except (RuntimeError, MemoryError):  # torch's out-of-memory error is a RuntimeError
            _log.exception("a cache could not be copied")
            return None  # the error, which keeps the copy's memory alive, is gone then

    def _keep(self, state: SequenceState, ids: Ids) -> None:
        self._kept.keep(state, ids, self._budget - self._unkept_bytes)

    def _detach(self, sequence: TokenSequence) -> _Running:
        running = self._running.pop(sequence)
        self._reserved_bytes -= running.reserved
        self._kept.index.remove(running.state)
        if not self._running:
            self._padding_bytes = 0
        return running

    def _evict_for(self, nbytes: int) -> None:
        """Drop kept caches until `nbytes` more fit."""
        self._kept.shrink(self._budget - self._unkept_bytes - nbytes)
