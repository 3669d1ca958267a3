"""The forward pass of a step with few rows on a CPU, in a few calls per layer besides the products."""

from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.device import on_device
from app.engine.execution.attention.rope import RopeTable
from app.engine.execution.attention.varlen import PackedSequence
from app.engine.execution.direct_pass import DirectPass
from app.engine.execution.rows.kernels import RowKernels, row_kernels
from app.engine.execution.rows.row_layers import RowLayer, RowNorm, takes, takes_norm
from app.engine.kv.slot import Slot
from app.engine.layers.compiled.product import DTYPES

_MOST_ROWS = 64
_MOST_ROWS_OF_SEQUENCE = 8  # with more, torch's attention reads keys and values less often


class RowPass:
    """The same computation as DirectPass, of rows whose slots have the keys and values of earlier rows."""

    def __init__(self, direct: DirectPass, kernels: RowKernels) -> None:
        self._kernels = kernels
        self._embeddings = direct.embeddings
        self._positions = direct.positions
        self._norm = RowNorm(direct.norm)
        self._output = direct.output
        self._layers = [RowLayer.of(layer, kernels, self._norm.dtype) for layer in direct.modules]
        self._table: Tensor | None = None  # that the layers rotate by

    @classmethod
    def of(cls, direct: DirectPass) -> "RowPass | None":
        """Returns None if the kernels cannot compute this model on its device, or cannot be compiled."""
        if direct.device.type != "cpu" or not takes_norm(direct.norm) or not all(map(takes, direct.modules)):
            return None
        hidden: Tensor = direct.embeddings(torch.tensor([0]))
        dtypes = {direct.norm.weight.dtype, hidden.dtype}
        dtypes |= {
            norm.weight.dtype for layer in direct.modules for norm in (layer.input_norm, layer.mlp_norm)
        }
        if len(dtypes) > 1 or hidden.dtype not in DTYPES or not _takes_positions(direct, hidden):
            return None
        kernels = row_kernels()
        return None if kernels is None else cls(direct, kernels)

    def can_compute(self, sequences: Sequence[PackedSequence], first_layer: int) -> bool:
        """Returns whether the rows are few, and every slot has keys and values in all layers."""
        layers = range(first_layer, first_layer + len(self._layers))
        return sum(sequence.rows for sequence in sequences) <= _MOST_ROWS and all(
            sequence.rows <= _MOST_ROWS_OF_SEQUENCE
            and sequence.start > 0
            and _is_whole(sequence.slot, layers)
            for sequence in sequences
        )

    def logits(
        self,
        ids: list[int],
        positions: list[int],
        sequences: Sequence[PackedSequence],
        rows: list[int],
        first_layer: int,
    ) -> Tensor:
        """Returns the logits `[rows, vocabulary]` after these rows of the tokens.

        Tokens after those of the sequences are padding.
        """
        hidden, added = self._hidden(ids, positions), None
        normed = torch.empty_like(hidden)
        attended = hidden.new_zeros(len(ids), self._layers[0].attention.width)
        places = _Places(sequences, first_layer)
        count, hidden_at, normed_at = len(ids), hidden.data_ptr(), normed.data_ptr()
        add_and_norm = self._kernels.add_and_norm
        for layer in self._layers:
            add_and_norm(
                layer.input_norm.at, count, hidden_at, None if added is None else added.data_ptr(), normed_at
            )
            self._attend(layer, layer.qkv(normed), places, attended)
            added = _dense(layer.o_proj(attended), hidden.dtype, self._norm.size)
            add_and_norm(layer.mlp_norm.at, count, hidden_at, added.data_ptr(), normed_at)
            added = _dense(layer.mlp(normed), hidden.dtype, self._norm.size)
        assert added is not None, "a model has layers"
        add_and_norm(self._norm.at, count, hidden_at, added.data_ptr(), normed_at)
        if len(rows) < len(ids):
            normed = normed.index_select(0, on_device(rows, normed.device))
        logits: Tensor = self._output(normed)
        return logits

    def _hidden(self, ids: list[int], positions: list[int]) -> Tensor:
        """Returns new hidden states `[rows, width]`."""
        hidden: Tensor = self._embeddings(torch.tensor(ids))
        if not isinstance(self._positions, RopeTable):
            return hidden.add_(self._positions(torch.tensor(positions)))
        table = self._positions.up_to(max(positions), hidden)
        if table is not self._table:
            self._table = table
            for layer in self._layers:
                layer.attention.rotate_by(table)
        return hidden

    def _attend(self, layer: RowLayer, rows: Tensor, places: "_Places", output: Tensor) -> None:
        rows = _dense(rows, output.dtype, layer.attention.input_width)
        slots = places.in_layer(layer.attention.index)
        self._kernels.attend(
            layer.attention.at,
            places.count,
            rows.data_ptr(),
            slots.buffer_info()[0],
            places.capacities.buffer_info()[0],
            places.positions.buffer_info()[0],
            output.data_ptr(),
            torch.get_num_threads(),
        )


class _Places:
    """Where the keys and values of each row belong, as the kernels take it."""

    def __init__(self, sequences: Sequence[PackedSequence], first_layer: int) -> None:
        self._first_layer = first_layer
        self._slots = [sequence.slot for sequence in sequences for _ in range(sequence.rows)]
        self.count = len(self._slots)
        self.capacities = array("q", [slot.capacity for slot in self._slots])
        self.positions = array("q")
        for sequence in sequences:
            if sequence.stop > sequence.slot.capacity:  # the kernels write where they are told to
                raise ValueError(f"rows up to {sequence.stop} in a slot for {sequence.slot.capacity}")
            self.positions.extend(range(sequence.start, sequence.stop))

    def in_layer(self, layer: int) -> "array[int]":
        """Returns the address of each row's keys and values in this layer of its slot."""
        return array("Q", [slot.layers[self._first_layer + layer].data_ptr() for slot in self._slots])


def _is_whole(slot: Slot, layers: range) -> bool:
    """Returns whether the slot has these layers, and all have its capacity.

    When memory is lacking, the first ones may have been resized without the others.
    """
    return layers[-1] in slot.layers and slot.layers[layers[0]].shape[3] == slot.capacity


def _takes_positions(direct: DirectPass, hidden: Tensor) -> bool:
    """Returns whether there is a table of the rope for whole heads, if the model has a rope."""
    if not isinstance(direct.positions, RopeTable):
        return True
    if not direct.positions.is_fixed:
        return False
    dim = direct.positions.up_to(0, hidden).shape[-1]
    return all(layer.head_dim == dim for layer in direct.modules)


def _dense(rows: Tensor, dtype: torch.dtype, width: int) -> Tensor:
    """Returns the rows as the kernels read them. Some products give parts of wider rows."""
    if rows.shape[-1] != width:
        raise ValueError(f"rows of {rows.shape[-1]} numbers instead of {width}")
    return rows.to(dtype).contiguous()
