"""The caches of several sequences as the rows of one, so that one pass reads ids of each of them."""

import copy
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from app.engine.device import on_device
from app.engine.own_cache import joint_layers
from app.engine.own_cache.sequence_state import SequenceState

Cache = Any  # a DynamicCache, whose layers transformers leaves untyped


class JointCache:
    """The caches of `states` as the rows of one. A state that is asked for its cache takes a copy of its row.

    `lengths` says how many ids each has read. Keys and values of shorter ones are padded at the beginning.
    """

    def __init__(self, states: Sequence[SequenceState], lengths: Sequence[int], cache: Cache = None) -> None:
        self.cache = cache
        self._lengths = list(lengths)
        self._rows = WeakKeyDictionary({state: row for row, state in enumerate(states)})

    @classmethod
    def of_prompts(cls, states: Sequence[SequenceState], lengths: Sequence[int]) -> "JointCache":
        """Returns one without a cache, for the pass that reads prompts of these lengths, padded.

        Before that pass the length of a row is negative, by the ids that it lacks to the longest prompt.
        """
        longest = max(lengths)
        return cls(states, [length - longest for length in lengths])

    @classmethod
    @torch.inference_mode()
    def joining(cls, states: Sequence[SequenceState], lengths: Sequence[int]) -> "JointCache":
        """Returns the joint cache of states that have caches, alone or as rows of other joint ones.

        Each layer of those is freed before the next one is joined. If that fails, the states are empty.
        """
        try:
            joint = cls(states, lengths, _moved(states))
        except BaseException:
            for state in states:
                state.cache = None
            raise
        joint.hold(states)
        return joint

    def hold(self, states: Sequence[SequenceState]) -> None:
        """Let the states be the rows of this cache. They are those that it was made for."""
        for state in states:
            state.join(self)

    def is_of(self, states: Sequence[SequenceState]) -> bool:
        return len(states) == len(self._lengths) and all(
            self._rows.get(state) == row and state.joint is self for row, state in enumerate(states)
        )

    def is_within(self, states: Sequence[SequenceState]) -> bool:
        """Returns whether no other state needs a row of it."""
        return {state for state in self._rows if state.joint is self} <= set(states)

    def mask(self, count: int, device: torch.device) -> Tensor:
        """Returns which keys each row has, those of its next `count` ids included."""
        end = max(self._lengths) + count
        return (torch.arange(end, device=device) >= self._padding(device)).long()

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Returns the positions of the next `count` ids of each row; 0 for padding."""
        start = max(self._lengths)
        places = torch.arange(start, start + count, device=device)
        return (places - self._padding(device)).clamp(min=0)

    def advance(self, count: int) -> None:
        """Note that a pass has read `count` ids of each row."""
        self._lengths = [length + count for length in self._lengths]

    @torch.inference_mode()
    def row_of(self, state: SequenceState) -> Cache:
        """Returns a copy of the state's cache, without padding."""
        own = copy.copy(self.cache)
        own.layers = [
            joint_layers.cloned(self.layer_of(state, place)) for place in range(len(self.cache.layers))
        ]
        return own

    def layer_of(self, state: SequenceState, place: int) -> joint_layers.Layer:
        """Returns one layer of the state's cache, whose tensors are views."""
        row = self._rows[state]
        return joint_layers.row_of(self.cache.layers[place], row, self._lengths[row], max(self._lengths))

    def _padding(self, device: torch.device) -> Tensor:
        longest = max(self._lengths)
        return on_device([[longest - length] for length in self._lengths], device)


def _moved(states: Sequence[SequenceState]) -> Cache:
    """Returns the joint cache. The caches that it is made of lose one layer after the other."""
    sources = list(dict.fromkeys(state.joint or state for state in states))
    emptied = [it.cache for it in sources if not isinstance(it, JointCache) or it.is_within(states)]
    moved = copy.copy(sources[0].cache)
    moved.layers = []
    for place in range(len(sources[0].cache.layers)):
        moved.layers.append(joint_layers.joined([_layer(state, place) for state in states]))
        for cache in emptied:
            cache.layers[place] = None
    return moved


def _layer(state: SequenceState, place: int) -> joint_layers.Layer:
    joint = state.joint
    return joint.layer_of(state, place) if isinstance(joint, JointCache) else state.cache.layers[place]
