"""Joins layers of several sequences' caches along their first dimension, and takes rows out again.

transformers' layers have no class that says what tensors they hold, hence `Any`.
"""

import copy
from collections.abc import Sequence
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

from app.engine.own_cache.passes import Joining
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

Layer = Any


def joining_of(state: SequenceState) -> Joining:
    """Returns the kind of joining that the types of the cache's layers allow."""
    layers = state.cache.layers if type(state.cache) is DynamicCache else ()
    types = {type(layer) for layer in layers}
    if not types or types - _WITH_KEYS - _WITH_STATES - _EMPTY:
        return Joining.NEVER
    return Joining.PADDED if types & _WITH_KEYS else Joining.UNPADDED


def joined(layers: Sequence[Layer]) -> Layer:
    """Returns one layer with the rows of all. Shorter keys and values are padded at the beginning."""
    joint = _copied(layers[0])
    for name in _state_names(joint):
        states = [getattr(layer, name) for layer in layers]
        setattr(joint, name, {it: _stacked([each[it] for each in states]) for it in states[0]})
    if _has_keys(joint):
        longest = max(layer.keys.shape[-2] for layer in layers)
        joint.keys = torch.cat([_padded(layer.keys, longest) for layer in layers])
        joint.values = torch.cat([_padded(layer.values, longest) for layer in layers])
    if hasattr(joint, "cumulative_length"):
        joint.cumulative_length = max(layer.cumulative_length for layer in layers)
    return joint


def row_of(layer: Layer, row: int, length: int, longest: int) -> Layer:
    """Returns a layer with views of one row, without its padding: `length` of the `longest` row's ids."""
    own, only = _copied(layer), slice(row, row + 1)
    for name in _state_names(own):
        states = getattr(layer, name)
        setattr(own, name, {it: None if all_ is None else all_[only] for it, all_ in states.items()})
    if _has_keys(own):
        start = max(0, layer.keys.shape[-2] - length)  # a sliding layer may have forgotten the padding
        own.keys, own.values = layer.keys[only, ..., start:, :], layer.values[only, ..., start:, :]
    if hasattr(own, "cumulative_length"):
        own.cumulative_length -= longest - length
    return own


def cloned(layer: Layer) -> Layer:
    """Returns a layer that shares no tensor with this one."""
    own = _copied(layer)
    for name in _state_names(own):
        states = getattr(layer, name)
        setattr(own, name, {it: None if state is None else state.clone() for it, state in states.items()})
    if _has_keys(own):
        own.keys, own.values = layer.keys.clone(), layer.values.clone()
    return own


def _copied(layer: Layer) -> Layer:
    """Returns a layer with the same tensors that can be changed by itself."""
    copied = copy.copy(layer)
    if type(layer) in _WITH_STATES:
        for name in _FLAGS:
            setattr(copied, name, dict(getattr(layer, name)))
    return copied


def _has_keys(layer: Layer) -> bool:
    return type(layer) in _WITH_KEYS and layer.keys is not None


def _state_names(layer: Layer) -> tuple[str, ...]:
    return _STATES if type(layer) in _WITH_STATES else ()


def _stacked(states: list[Tensor | None]) -> Tensor | None:
    tensors = [state for state in states if state is not None]
    return torch.cat(tensors) if tensors else None


def _padded(keys: Tensor, length: int) -> Tensor:
    return functional.pad(keys, (0, 0, length - keys.shape[-2], 0))
