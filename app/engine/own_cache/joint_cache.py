"""Joins the caches of sequences that decode together, so that one pass reads one id of each of them."""

import copy
import weakref
from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, cache_utils
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from app.engine.device import on_device
from app.engine.own_cache.sequence_state import SequenceState

_WITH_KEYS = {
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
}
_WITH_STATES = {
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
}
_EMPTY = {getattr(cache_utils, "DummyLayer", None)}  # which transformers 5.17 does not have yet
_STATES = ("conv_states", "recurrent_states")  # each a tensor by its number
_FLAGS = ("has_previous_state", "is_conv_states_initialized", "is_recurrent_states_initialized")
_MOST_PADDING, _LITTLE_PADDING = 0.25, 512  # share of the ids of a joint cache, and ids that never matter

Layer = Any  # transformers' layers have no class that says what tensors they hold


class Joining(Enum):
    """Whether the caches of an architecture can be joined, and whether shorter ones must be padded."""

    NEVER = "never"
    PADDED = "padded"
    UNPADDED = "unpadded"  # there are only states, which take the same room for any length


def joining_of(state: SequenceState) -> Joining:
    """Returns what the types of the cache's layers allow."""
    layers = state.cache.layers if type(state.cache) is DynamicCache else ()
    types = {type(layer) for layer in layers}
    if not types or types - _WITH_KEYS - _WITH_STATES - _EMPTY:
        return Joining.NEVER
    return Joining.PADDED if types & _WITH_KEYS else Joining.UNPADDED


def groups_to_join(lengths: Sequence[int], joining: Joining, most_padding: int) -> list[list[int]]:
    """Returns groups of places in `lengths` whose caches may be joined.

    Padding takes memory and time, so they have similar lengths, and at most `most_padding` ids in all.
    """
    match joining:
        case Joining.NEVER:
            return [[place] for place in range(len(lengths))]
        case Joining.UNPADDED:
            return [list(range(len(lengths)))] if lengths else []
        case Joining.PADDED:
            return _groups_of_similar(lengths, most_padding)


def padding_of(lengths: Sequence[int]) -> int:
    """Returns how many ids of padding a joint cache of sequences of these lengths has."""
    return max(lengths) * len(lengths) - sum(lengths)


def _groups_of_similar(lengths: Sequence[int], most_padding: int) -> list[list[int]]:
    groups: list[list[int]] = []
    ids, padding, left = 0, 0, most_padding
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        more = lengths[groups[-1][0]] - length if groups else 0
        is_little = padding + more <= (ids + length) * _MOST_PADDING + _LITTLE_PADDING
        if groups and is_little and more <= left:
            groups[-1].append(place)
            ids, padding, left = ids + length, padding + more, left - more
        else:
            groups.append([place])
            ids, padding = length, 0
    return groups


class JointCache:
    """The caches of `states` as the rows of one. A state that is asked for its cache separates all of them.

    `lengths` says how many ids each has read. Keys and values of shorter ones are padded at the beginning.
    """

    def __init__(self, states: Sequence[SequenceState], lengths: Sequence[int]) -> None:
        self.cache = _joined([state.cache for state in states])
        self._lengths = list(lengths)
        self._states = [weakref.ref(state) for state in states]  # dropped states leave nothing behind
        for state in states:
            state.join(self)

    def is_of(self, states: Sequence[SequenceState]) -> bool:
        return len(states) == len(self._states) and all(
            reference() is state and state.joint is self
            for reference, state in zip(self._states, states, strict=True)
        )

    def positions(self, device: torch.device) -> Tensor:
        """Returns the position of the next id of each row."""
        return on_device([[length] for length in self._lengths], device)

    def mask(self, device: torch.device) -> Tensor:
        """Returns which keys each row has, the next id's included."""
        longest = max(self._lengths)
        padding = on_device([[longest - length] for length in self._lengths], device)
        return (torch.arange(longest + 1, device=device) >= padding).long()

    def advance(self) -> None:
        """Note that a pass has read one id of each row."""
        self._lengths = [length + 1 for length in self._lengths]

    @torch.inference_mode()
    def separate(self) -> None:
        """Give each state a cache of its own, without padding. If memory runs out, the others stay joint."""
        longest = max(self._lengths)
        for row, (reference, length) in enumerate(zip(self._states, self._lengths, strict=True)):
            state = reference()
            if state is not None and state.joint is self:
                state.cache = _row(self.cache, row, length, longest)


def _joined(caches: Sequence[Any]) -> Any:  # DynamicCache, whose layers transformers leaves untyped
    joint = copy.copy(caches[0])
    joint.layers = [_joined_layer(layers) for layers in zip(*(cache.layers for cache in caches), strict=True)]
    return joint


def _joined_layer(layers: Sequence[Layer]) -> Layer:
    joint = _copied(layers[0])
    for name in _state_names(joint):
        states = [getattr(layer, name) for layer in layers]
        setattr(joint, name, {it: _stacked([each[it] for each in states]) for it in states[0]})
    if type(joint) in _WITH_KEYS and joint.keys is not None:
        longest = max(layer.keys.shape[-2] for layer in layers)
        joint.keys = torch.cat([_padded(layer.keys, longest) for layer in layers])
        joint.values = torch.cat([_padded(layer.values, longest) for layer in layers])
    if hasattr(joint, "cumulative_length"):
        joint.cumulative_length = max(layer.cumulative_length for layer in layers)
    return joint


def _row(cache: Any, row: int, length: int, longest: int) -> Any:  # as above
    own = copy.copy(cache)
    own.layers = [_row_of_layer(layer, row, length, longest) for layer in cache.layers]
    return own


def _row_of_layer(layer: Layer, row: int, length: int, longest: int) -> Layer:
    own, only = _copied(layer), slice(row, row + 1)
    for name in _state_names(own):
        states = getattr(layer, name)
        setattr(own, name, {it: None if all_ is None else all_[only].clone() for it, all_ in states.items()})
    if type(own) in _WITH_KEYS and own.keys is not None:
        start = max(0, layer.keys.shape[-2] - length)  # a sliding layer may have forgotten the padding
        own.keys = layer.keys[only, ..., start:, :].clone()
        own.values = layer.values[only, ..., start:, :].clone()
    if hasattr(own, "cumulative_length"):
        own.cumulative_length -= longest - length
    return own


def _copied(layer: Layer) -> Layer:
    """Returns a layer with the same tensors that can be changed by itself."""
    copied = copy.copy(layer)
    if type(layer) in _WITH_STATES:
        for name in _FLAGS:
            setattr(copied, name, dict(getattr(layer, name)))
    return copied


def _state_names(layer: Layer) -> tuple[str, ...]:
    return _STATES if type(layer) in _WITH_STATES else ()


def _stacked(states: list[Tensor | None]) -> Tensor | None:
    tensors = [state for state in states if state is not None]
    return torch.cat(tensors) if tensors else None


def _padded(keys: Tensor, length: int) -> Tensor:
    return functional.pad(keys, (0, 0, length - keys.shape[-2], 0))
