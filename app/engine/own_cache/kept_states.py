"""Caches of finished sequences, which later prompts continue from, with an index of what caches have read."""

from collections import OrderedDict

from app.engine.kv.prefix_index import Ids, PrefixIndex
from app.engine.own_cache.sequence_state import SequenceState


class KeptStates:
    """Keeps caches, least recently used first. Those of running sequences are in the index only."""

    def __init__(self) -> None:
        self.index: PrefixIndex[SequenceState] = PrefixIndex()
        self._states: OrderedDict[SequenceState, None] = OrderedDict()
        self.nbytes = 0

    def __contains__(self, state: SequenceState) -> bool:
        return state in self._states

    @property
    def states(self) -> list[SequenceState]:
        return list(self._states)

    def donor(self, ids: Ids, scope: str) -> tuple[SequenceState | None, int]:
        """Returns the cache that saves most, and how many leading ids a sequence can take from it."""
        for state, shared in self.index.sharing(ids, scope):
            if state.tokens == shared or state.can_crop(state.tokens):
                return state, shared
        return None, 0

    def touch(self, state: SequenceState) -> None:
        """Note that the cache was used: the most recently used one is evicted last."""
        self._states.move_to_end(state)

    def keep(self, state: SequenceState, ids: Ids, room: int) -> None:
        """Keep the cache, which has read `ids`, and at most `room` bytes in all.

        It is not kept if it needs more than that, or if a longer one can be cropped to it.
        """
        state.keep(len(ids))
        self.index.put(state, ids)
        longer = next((it for it in self.index.continuations_of(state) if it in self), None)
        if longer is not None and longer.can_always_crop:
            self.touch(longer)
            self.index.remove(state)
            return
        if state.nbytes > room:
            self.index.remove(state)
            return
        for other in self.index.contained_in(state):
            if other in self and (other.tokens == state.tokens or state.can_always_crop):
                self.forget(other)
        self.shrink(room - state.nbytes)
        self._states[state] = None
        self.nbytes += state.nbytes

    def forget(self, state: SequenceState) -> None:
        del self._states[state]
        self.nbytes -= state.nbytes
        self.index.remove(state)

    def shrink(self, room: int) -> None:
        """Drop caches, least recently used first, until the others take at most `room` bytes."""
        while self._states and self.nbytes > room:
            self.forget(next(iter(self._states)))

    def check_integrity(self, running: int) -> None:
        """Assert what must hold between steps beside so many running sequences; for tests."""
        assert self.nbytes == sum(state.nbytes for state in self._states)
        assert all(state.tokens > 0 for state in self._states)
        self.index.check_integrity()
        assert len(self._states) <= len(self.index) <= len(self._states) + running
