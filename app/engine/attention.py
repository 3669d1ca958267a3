"""Owns the attention function that transformers calls in every layer, registered under the name `packed`.

The tokens of all sequences of a step lie end to end; each span of them writes its keys and values into
its own slot and attends inside that slot alone. Knows nothing of requests, scheduling or sampling.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from app.core.errors import ModelRefused
from app.engine.cache import Slot

NAME = "packed"


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
class Step:
    """What one forward pass works on. It reaches `attend` through the model's keyword arguments."""

    spans: list[Span]
    first_layer: int = 0  # in the slots
    layers: list[int] = field(default_factory=list)  # in the order they called `attend`
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)
    turns: tuple[Tensor, Tensor] | None = None  # rotary positions, in the form of fused layers


def register() -> None:
    """Make `attn_implementation="packed"` known. No mask function belongs to it, so models build no mask."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,  # whatever else an architecture passes to its attention function
) -> tuple[Tensor, None]:
    """Query `[1, heads, rows, dim]`, key, value `[1, kv_heads, rows, dim]`; output `[1, rows, heads, dim]`.

    Raises ModelRefused where the architecture asks for something that would be computed wrongly.
    """
    _refuse_unknown(attention_mask, others)
    if key.shape != value.shape:
        raise ModelRefused(
            "this architecture's keys and values differ in size, which the engine does not store"
        )
    layer = step.first_layer + int(module.layer_idx)  # type: ignore[arg-type]  # every attention module of transformers numbers itself
    step.layers.append(layer)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads = _Heads(layer, scale, sliding_window, softcap)
    # Each call of torch costs as much as the attention of one row, so all spans are cut at once.
    counts = [span.rows for span in step.spans]
    queries = query.split_with_sizes(counts, dim=2)
    pairs = torch.stack((key, value)).split_with_sizes(counts, dim=3)
    rows = [_attend_span(heads, step, *each) for each in zip(step.spans, queries, pairs, strict=True)]
    return (rows[0] if len(rows) == 1 else torch.cat(rows, dim=1)), None


@dataclass(frozen=True, slots=True)
class _Heads:
    """What one layer's attention is like."""

    layer: int
    scale: float
    window: int | None
    softcap: float | None


def _refuse_unknown(attention_mask: Tensor | None, others: dict[str, Any]) -> None:
    for name in ("s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ModelRefused(
                f"this architecture's attention uses {name}, which the engine does not compute"
            )
    if attention_mask is not None:
        raise ModelRefused(
            "this architecture builds an attention mask of its own, which the engine does not apply"
        )


def _attend_span(heads: _Heads, step: Step, span: Span, query: Tensor, pairs: Tensor) -> Tensor:
    """Output `[1, rows of the span, heads, dim]`."""
    whole = span.slot.write(heads.layer, span.start, pairs)
    first = 0 if heads.window is None else max(0, span.start - heads.window + 1)
    keys, values = whole.narrow(3, first, span.stop - first).unbind(0)
    if span.rows == 1:
        return _attend_one(heads, query, keys, values)
    return _attend_many(heads, step, span, query, keys, values)


def _attend_one(heads: _Heads, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query row sees every key: the heads of a group become rows that share their key head."""
    kv_heads = keys.shape[1]
    grouped = query.reshape(1, kv_heads, query.shape[1] // kv_heads, query.shape[3])
    return _product(heads, grouped, keys, values, None).reshape(1, 1, query.shape[1], values.shape[3])


def _attend_many(
    heads: _Heads, step: Step, span: Span, query: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Key heads are expanded over their group as a view, never copied."""
    kv_heads, rows = keys.shape[1], query.shape[2]
    group = query.shape[1] // kv_heads
    grouped = query.reshape(kv_heads, group, rows, query.shape[3])
    keys = keys.transpose(0, 1).expand(-1, group, -1, -1)
    values = values.transpose(0, 1).expand(-1, group, -1, -1)
    output = _product(heads, grouped, keys, values, _mask(step, span, heads.window, query))
    return output.reshape(1, kv_heads * group, rows, values.shape[3]).transpose(1, 2)


def _product(heads: _Heads, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    if heads.softcap is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=heads.scale)
    scores = (
        torch.matmul(query, keys.transpose(2, 3))
        .mul_(heads.scale / heads.softcap)
        .tanh_()
        .mul_(heads.softcap)
    )
    if mask is not None:
        scores = scores + mask
    return torch.matmul(scores.softmax(-1, dtype=torch.float32).to(values.dtype), values)


def _mask(step: Step, span: Span, window: int | None, query: Tensor) -> Tensor:
    """Additive `[rows, keys]`: causal, and within the window; made once per step for all layers of a kind."""
    found = step.masks.get((span.begin, window))
    if found is None:
        found = step.masks[span.begin, window] = _causal_mask(span, window, query)
    return found


def _causal_mask(span: Span, window: int | None, query: Tensor) -> Tensor:
    first = 0 if window is None else max(0, span.start - window + 1)
    rows = torch.arange(span.start, span.stop, device=query.device).unsqueeze(1)
    columns = torch.arange(first, span.stop, device=query.device).unsqueeze(0)
    hidden = columns > rows
    if window is not None:
        hidden |= columns <= rows - window
    return torch.zeros(hidden.shape, dtype=query.dtype, device=query.device).masked_fill_(hidden, -torch.inf)
