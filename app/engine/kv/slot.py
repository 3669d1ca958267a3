"""Owns the place of one sequence's keys and values, and what a store of such places can do.

Knows tensors and lengths; whose turn it is to have or lose a place is the cache's.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Slot:
    """Keys and values of one sequence, per layer `[2, 1, kv_heads, capacity, dim]`, made as they come."""

    capacity: int
    scope: str = ""
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int64))  # what is, or will first be, written
    layers: dict[int, Tensor] = field(default_factory=dict)
    drafted: int = 0  # leading positions whose keys and values of a draft model are here, too

    def write(self, layer: int, start: int, pairs: Tensor) -> Tensor:
        """Store `[2, 1, kv_heads, rows, dim]` from position `start` on; returns the layer's whole tensor."""
        whole = self._whole(layer, pairs)
        whole.narrow(3, start, pairs.shape[3]).copy_(pairs)
        return whole

    def _whole(self, layer: int, pairs: Tensor) -> Tensor:
        if layer not in self.layers:
            self.layers[layer] = pairs.new_empty((*pairs.shape[:3], self.capacity, pairs.shape[4]))
        return self.layers[layer]

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.layers.values())


class KVAllocator(Protocol):
    """Makes slots. What it raises, for want of memory, leaves the slot that it was asked for as it was."""

    def new(self, capacity: int, scope: str = "") -> Slot: ...

    def copy(self, slot: Slot, length: int, capacity: int) -> Slot:
        """A slot of its own with the first `length` positions of another."""

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        """Keep the first `length` positions in another capacity."""

    def drop(self, slot: Slot) -> None:
        """The slot is over; nobody uses it any more."""


class PerSlotAllocator:
    """Every slot has tensors of its own, which are the system's again when it is over."""

    def new(self, capacity: int, scope: str = "") -> Slot:
        return Slot(capacity, scope)

    def copy(self, slot: Slot, length: int, capacity: int) -> Slot:
        twin = Slot(capacity, slot.scope, slot.ids[:length], drafted=slot.drafted)
        twin.layers = {layer: _resized(tensor, length, capacity) for layer, tensor in slot.layers.items()}
        return twin

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        """Layer by layer, so that little is held twice."""
        for layer, tensor in slot.layers.items():
            slot.layers[layer] = _resized(tensor, length, capacity)
        slot.capacity = capacity  # once every layer has it: the device may run out of memory on the way

    def drop(self, slot: Slot) -> None:
        slot.layers.clear()


def _resized(tensor: Tensor, length: int, capacity: int) -> Tensor:
    wider = tensor.new_empty((*tensor.shape[:3], capacity, tensor.shape[4]))
    wider.narrow(3, 0, length).copy_(tensor.narrow(3, 0, length))
    return wider
