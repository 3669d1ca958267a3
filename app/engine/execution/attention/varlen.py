"""Variable-length attention: the tokens of all sequences lie end to end, and each attends to its own slot.

Prefills and decodes of any length can be mixed. Each sequence takes one torch call per layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.execution.attention.interface import (
    AttentionBatch,
    LayerAttention,
    additive_mask,
    attend_one,
    scaled_dot_product,
)
from app.engine.kv.slot import Slot


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """Rows `begin` to `end` of a pass: the tokens of one sequence from position `start` on."""

    slot: Slot
    begin: int
    end: int
    start: int

    @property
    def rows(self) -> int:
        return self.end - self.begin

    @property
    def stop(self) -> int:
        """Position after the last token."""
        return self.start + self.rows


@dataclass(slots=True)
class VarlenAttention(AttentionBatch):
    sequences: list[PackedSequence]
    padding: int = 0  # rows after the last sequence, which attend to nothing

    def attend(self, layer: LayerAttention, query: Tensor, pairs: Tensor) -> Tensor:
        if len(self.sequences) == 1 and self.padding == 0:
            return self._attend_sequence(layer, self.sequences[0], query, pairs)
        # A torch call costs as much as the attention of one row, so the rows are split in one call.
        counts = [*(sequence.rows for sequence in self.sequences), self.padding]
        queries = query.split_with_sizes(counts, dim=2)
        parts = zip(self.sequences, queries, pairs.split_with_sizes(counts, dim=3), strict=False)
        outputs = [self._attend_sequence(layer, *part) for part in parts]
        if self.padding > 0:
            first = outputs[0]
            outputs.append(first.new_zeros((1, self.padding, *first.shape[2:])))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def _attend_sequence(
        self, layer: LayerAttention, sequence: PackedSequence, query: Tensor, pairs: Tensor
    ) -> Tensor:
        """Returns `[1, rows of the sequence, heads, dim]`."""
        stored = sequence.slot.write(self.first_layer + layer.index, sequence.start, pairs)
        first = _first_visible(sequence, layer.window)
        keys, values = stored.narrow(3, first, sequence.stop - first).unbind(0)
        if sequence.rows == 1:
            return attend_one(layer, query, keys, values, None)
        return self._attend_many(layer, sequence, query, keys, values)

    def _attend_many(
        self, layer: LayerAttention, sequence: PackedSequence, query: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Attends with many rows. Key heads are expanded over their groups as views, without a copy."""
        kv_heads, rows = keys.shape[1], query.shape[2]
        group = query.shape[1] // kv_heads
        grouped = query.reshape(kv_heads, group, rows, query.shape[3])
        keys = keys.transpose(0, 1).expand(-1, group, -1, -1)
        values = values.transpose(0, 1).expand(-1, group, -1, -1)
        sinks = None if layer.sinks is None else layer.sinks.view(kv_heads, group, 1, 1)
        mask = self._mask(sequence, layer.window, query)
        output = scaled_dot_product(layer, grouped, keys, values, mask, sinks)
        return output.reshape(1, kv_heads * group, rows, values.shape[3]).transpose(1, 2)

    def _mask(self, sequence: PackedSequence, window: int | None, query: Tensor) -> Tensor:
        """Returns the causal mask within the window, `[rows, keys]`, computed once for all such layers."""
        key = (sequence.begin, window)
        if key not in self.masks:
            self.masks[key] = additive_mask(_hidden(sequence, window, query.device), query)
        return self.masks[key]


def _first_visible(sequence: PackedSequence, window: int | None) -> int:
    """Returns the first position that any row of the sequence attends to."""
    return 0 if window is None else max(0, sequence.start - window + 1)


def _hidden(sequence: PackedSequence, window: int | None, device: torch.device) -> Tensor:
    rows = torch.arange(sequence.start, sequence.stop, device=device).unsqueeze(1)
    columns = torch.arange(_first_visible(sequence, window), sequence.stop, device=device).unsqueeze(0)
    hidden = columns > rows
    return hidden if window is None else hidden | (columns <= rows - window)
