"""The cache that a model's own forward pass keeps for one sequence, in the form that the architecture needs.

transformers calls the argument and the output that hold it by one of three names.
"""

import copy
import inspect
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from app.engine.own_cache.module_states import ModuleCache

_ARGUMENTS = ("past_key_values", "cache_params", "state")


def cache_argument(model: PreTrainedModel) -> str | None:
    """Returns the name of the model's argument that takes a cache; None if it has none."""
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in _ARGUMENTS if name in parameters), None)


class Joint(Protocol):
    """A cache that several sequences share."""

    @property
    def cache(self) -> Any:  # each architecture has its own
        """The cache of all of them, whose layers have the types of each one's."""

    def row_of(self, state: "SequenceState") -> Any:  # as above
        """Returns a copy of the cache of one of them."""


class SequenceState:
    """One sequence's cache. `cache` is None before the first pass, and always if the architecture has none.

    While it is part of a `joint` cache, asking for `cache` takes it out of that.
    """

    __slots__ = ("__weakref__", "_cache", "joint", "nbytes", "scope", "tokens")

    def __init__(self, scope: str = "", cache: Any = None) -> None:  # Any: each architecture has its own
        self.scope = scope
        self._cache = cache
        self.joint: Joint | None = None
        self.tokens = 0  # leading ids that it has read; set when it is kept
        self.nbytes = 0  # set when it is kept

    @property
    def is_empty(self) -> bool:
        """Whether it has no cache: no pass was made, or the architecture keeps nothing."""
        return self._cache is None and self.joint is None

    @property
    def cache(self) -> Any:  # as above
        if self.joint is not None:
            self.cache = self.joint.row_of(self)
        return self._cache

    @cache.setter
    def cache(self, cache: Any) -> None:  # as above
        self._cache, self.joint = cache, None

    def join(self, joint: Joint) -> None:
        """Let the sequence's cache be a part of `joint`."""
        self._cache, self.joint = None, joint

    @torch.inference_mode()
    def copy(self) -> "SequenceState":
        """Returns a copy that shares no tensor, and has no memory beyond what its tensors need."""
        if self.joint is not None:
            return SequenceState(self.scope, self.joint.row_of(self))
        memo: dict[int, Any] = {id(tensor): tensor.clone() for tensor in tensors_of(self.cache)}
        return SequenceState(self.scope, copy.deepcopy(self.cache, memo))

    def keep(self, tokens: int) -> None:
        """Note that the cache has read so many ids and stays as it is."""
        self.tokens = tokens
        self.nbytes = storage_bytes(self.cache)

    @property
    def can_always_crop(self) -> bool:
        """Whether leading ids can be kept whatever the length: no layer has forgotten anything."""
        layers = self._layers
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def can_crop(self, tokens: int) -> bool:
        """Whether the last of the `tokens` ids that it has read can be removed."""
        layers = self._layers
        return bool(layers) and all(
            type(layer) is DynamicLayer
            or (type(layer) is DynamicSlidingWindowLayer and tokens < layer.sliding_window)
            for layer in layers
        )

    @property
    def _layers(self) -> list[Any]:  # as above
        """The layers of its cache, or of the joint one; empty if it has none."""
        cache = self._cache if self.joint is None else self.joint.cache
        return cache.layers if type(cache) is DynamicCache else []

    @torch.inference_mode()
    def crop(self, count: int) -> None:
        """Remove the last `count` ids."""
        if count > 0:
            self.cache.crop(-count)


def storage_bytes(cache: Any) -> int:  # Any: as above
    """Returns the memory that the cache's tensors occupy."""
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors_of(cache)}
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def tensors_of(cache: Any) -> list[Tensor]:  # Any: as above
    """Returns the tensors in the cache, each once."""
    return list({id(tensor): tensor for tensor in _tensors(cache)}.values())


def _tensors(value: Any) -> Iterator[Tensor]:  # Any: as above
    match value:
        case Tensor():
            yield value
        case dict():
            for item in value.values():
                yield from _tensors(item)
        case list() | tuple():
            for item in value:
                yield from _tensors(item)
        case _ if isinstance(value, ModuleCache) or type(value).__module__.startswith("transformers."):
            yield from _tensors(vars(value))
