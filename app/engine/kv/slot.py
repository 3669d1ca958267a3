"""The memory for one sequence's keys and values, and its allocators."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from app.engine.kv.mapped import new_tensor


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence's keys and values: per layer `[2, 1, kv_heads, capacity, dim]` after the first write."""

    capacity: int  # positions
    scope: str = ""  # sequences of other scopes never use it
    tokens: int = 0  # leading positions that hold keys and values, once the sequence has ended
    layers: dict[int, Tensor] = field(default_factory=dict)
    draft_computed: int = 0  # leading positions that also hold keys and values of the draft model

    def write(self, layer: int, start: int, pairs: Tensor) -> Tensor:
        """Store `[2, 1, kv_heads, rows, dim]` from position `start` on. Returns the layer's whole tensor."""
        stored = self._stored(layer, pairs)
        stored.narrow(3, start, pairs.shape[3]).copy_(pairs)
        return stored

    def _stored(self, layer: int, pairs: Tensor) -> Tensor:
        if layer not in self.layers:
            self.layers[layer] = new_tensor(pairs, (*pairs.shape[:3], self.capacity, pairs.shape[4]))
        return self.layers[layer]

    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.layers.values())


class KVAllocator(Protocol):
    """Makes slots. A call that raises for lack of memory leaves its slot unchanged."""

    def new(self, capacity: int, scope: str = "") -> Slot: ...

    def copy(self, slot: Slot, length: int, capacity: int) -> Slot:
        """Returns a new slot with a copy of the first `length` positions."""

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        """Change the capacity and keep the first `length` positions."""

    def drop(self, slot: Slot) -> None:
        """Free the slot, which must not be used any more."""


class PerSlotAllocator:
    """Gives every slot its own tensors, whose memory returns to the system with the slot."""

    def new(self, capacity: int, scope: str = "") -> Slot:
        return Slot(capacity, scope)

    def copy(self, slot: Slot, length: int, capacity: int) -> Slot:
        layers = {layer: _resize(tensor, length, capacity) for layer, tensor in slot.layers.items()}
        return Slot(capacity, slot.scope, layers=layers, draft_computed=min(slot.draft_computed, length))

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        """Resize one layer after the other, so that only one tensor exists twice."""
        for layer, tensor in slot.layers.items():
            slot.layers[layer] = _resize(tensor, length, capacity)
        slot.capacity = capacity  # only now: the device may run out of memory before the last layer

    def drop(self, slot: Slot) -> None:
        slot.layers.clear()


def _resize(tensor: Tensor, length: int, capacity: int) -> Tensor:
    resized = new_tensor(tensor, (*tensor.shape[:3], capacity, tensor.shape[4]))
    resized.narrow(3, 0, length).copy_(tensor.narrow(3, 0, length))
    return resized
