"""Owns the pass over spans: the tokens of all its sequences lie end to end, each attends within its own slot.

Of any length and mixture, prefills and decodes; a call of torch for every span in every layer.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.execution.attention.interface import (
    AttentionBatch,
    LayerAttention,
    additive,
    attend_one,
    product,
)
from app.engine.kv.slot import Slot


@dataclass(frozen=True, slots=True)
class Span:
    """Packed rows `begin` to `end` of a step: the tokens of one sequence from position `start` on."""

    slot: Slot
    begin: int
    end: int
    start: int

    @property
    def rows(self) -> int:
        return self.end - self.begin

    @property
    def stop(self) -> int:
        """Position after the span's last token: the history that its last token sees."""
        return self.start + self.rows


@dataclass(slots=True)
class VarlenAttention(AttentionBatch):
    spans: list[Span]

    def attend(self, heads: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Each call of torch costs as much as the attention of one row, so all spans are cut at once.
        counts = [span.rows for span in self.spans]
        queries = query.split_with_sizes(counts, dim=2)
        pairs = torch.stack((key, value)).split_with_sizes(counts, dim=3)
        rows = [self._attend_span(heads, *each) for each in zip(self.spans, queries, pairs, strict=True)]
        return rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)

    def _attend_span(self, heads: LayerAttention, span: Span, query: Tensor, pairs: Tensor) -> Tensor:
        """Output `[1, rows of the span, heads, dim]`."""
        whole = span.slot.write(heads.layer, span.start, pairs)
        first = 0 if heads.window is None else max(0, span.start - heads.window + 1)
        keys, values = whole.narrow(3, first, span.stop - first).unbind(0)
        if span.rows == 1:
            return attend_one(heads, query, keys, values, None)
        return self._attend_many(heads, span, query, keys, values)

    def _attend_many(
        self, heads: LayerAttention, span: Span, query: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Key heads are expanded over their group as a view, never copied."""
        kv_heads, rows = keys.shape[1], query.shape[2]
        group = query.shape[1] // kv_heads
        grouped = query.reshape(kv_heads, group, rows, query.shape[3])
        keys = keys.transpose(0, 1).expand(-1, group, -1, -1)
        values = values.transpose(0, 1).expand(-1, group, -1, -1)
        output = product(heads, grouped, keys, values, self._mask(span, heads.window, query))
        return output.reshape(1, kv_heads * group, rows, values.shape[3]).transpose(1, 2)

    def _mask(self, span: Span, window: int | None, query: Tensor) -> Tensor:
        """`[rows, keys]`: causal, and within the window; made once per step for all layers of a kind."""
        key = (span.begin, window)
        if key not in self.masks:
            self.masks[key] = additive(_hidden(span, window, query.device), query)
        return self.masks[key]


def _hidden(span: Span, window: int | None, device: torch.device) -> Tensor:
    first = 0 if window is None else max(0, span.start - window + 1)
    rows = torch.arange(span.start, span.stop, device=device).unsqueeze(1)
    columns = torch.arange(first, span.stop, device=device).unsqueeze(0)
    hidden = columns > rows
    return hidden if window is None else hidden | (columns <= rows - window)
