"""Owns the attention function that transformers calls in every layer, registered under the name `packed`.

What a pass works on, and how it attends, is its Step's. Knows nothing of requests, scheduling or sampling.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from app.core.errors import ModelRefused

NAME = "packed"


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """What one layer's attention is like."""

    layer: int
    scale: float
    window: int | None
    softcap: float | None


@dataclass(slots=True, kw_only=True)
class AttentionBatch(ABC):
    """What one forward pass works on. It reaches `attend` through the model's keyword arguments."""

    first_layer: int = 0  # in the slots
    turns: tuple[Tensor, Tensor] | None = None  # rotary positions, in the form of fused layers
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @abstractmethod
    def attend(self, heads: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Writes keys and values, and returns `[1, rows, heads, dim]`; arguments as those of `attend`."""


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
    step: AttentionBatch,
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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return step.attend(LayerAttention(layer, scale, sliding_window, softcap), query, key, value), None


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


def attend_one(
    heads: LayerAttention, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """One query row per sequence, `[sequences, heads, 1, dim]`, over keys `[sequences, kv_heads, keys, dim]`.

    The heads of a group become rows that share their key head. Returns `[1, sequences, heads, dim]`.
    """
    sequences, count, _, dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(sequences, kv_heads, count // kv_heads, dim)
    return product(heads, grouped, keys, values, mask).reshape(1, sequences, count, values.shape[3])


def product(
    heads: LayerAttention, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """Scaled dot-product attention with an additive mask, and the soft cap of Gemma 2 where there is one."""
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


def additive(hidden: Tensor, like: Tensor) -> Tensor:
    """The mask that leaves out what is `hidden`, to be added to scores of the type of `like`."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
