"""The attention function that transformers calls in every layer, registered under the name `packed`.

An AttentionBatch holds the sequences of one forward pass and attends for all of them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from app.core.errors import ModelRefused
from app.engine.execution.attention.rope import Rope

NAME = "packed"


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """The parameters of one layer's attention. `index` is the layer's number in its model."""

    index: int
    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None = None  # `[heads]`: scores that take part in the softmax without a key or value


@dataclass(slots=True, kw_only=True)
class AttentionBatch(ABC):
    """The sequences of one forward pass. It reaches `attend` as the model's argument `attention_batch`."""

    first_layer: int = 0  # number of the model's first layer in the slots
    rope: Rope | None = None  # of the rows, once it is known
    masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @abstractmethod
    def attend(self, layer: LayerAttention, query: Tensor, pairs: Tensor) -> Tensor:
        """Write keys and values. Returns `[1, rows, heads, dim]`.

        `query` is `[1, heads, rows, dim]`; `pairs`, keys and values, `[2, 1, kv_heads, rows, dim]`.
        """


def register() -> None:
    """Register `attn_implementation="packed"`. It has no mask function, so models build no mask."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_batch: AttentionBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,  # any other arguments that an architecture passes to its attention function
) -> tuple[Tensor, None]:
    """Returns `[1, rows, heads, dim]`. Query `[1, heads, rows, dim]`; key, value `[1, kv_heads, rows, dim]`.

    Raises ModelRefused if the architecture needs a kind of attention that would be computed wrongly.
    """
    refuse_mask(attention_mask)
    if others.get("position_bias") is not None:
        raise ModelRefused(
            "this architecture's attention uses position_bias, which the engine does not support"
        )
    if key.shape != value.shape:
        raise ModelRefused(
            "this architecture's keys and values differ in size, which the engine cannot store"
        )
    index = int(module.layer_idx)  # type: ignore[arg-type]  # every attention module of transformers numbers itself
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = LayerAttention(index, scale, sliding_window, softcap, s_aux)
    return attention_batch.attend(layer, query, torch.stack((key, value))), None


def refuse_mask(attention_mask: Tensor | None) -> None:
    """Raises ModelRefused if there is a mask. The sequences alone decide who attends to whom."""
    if attention_mask is not None:
        raise ModelRefused(
            "this architecture builds its own attention mask, which the engine does not support"
        )


def attend_one(
    layer: LayerAttention, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
) -> Tensor:
    """Returns `[1, sequences, heads, dim]` for one query row per sequence, `[sequences, heads, 1, dim]`.

    Keys and values are `[sequences, kv_heads, keys, dim]`. Query heads that share a key head become its rows.
    """
    sequences, heads, _, dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(sequences, kv_heads, heads // kv_heads, dim)
    sinks = None if layer.sinks is None else layer.sinks.view(1, kv_heads, -1, 1)
    output = scaled_dot_product(layer, grouped, keys, values, mask, sinks)
    return output.reshape(1, sequences, heads, values.shape[3])


def scaled_dot_product(
    layer: LayerAttention,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    sinks: Tensor | None,
) -> Tensor:
    """Computes scaled dot-product attention with an additive mask and, if the layer has it, a soft cap.

    `sinks` are those of the layer, in a shape that fits all scores but for the last dimension.
    """
    if layer.softcap is None and sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=layer.scale)
    scores = torch.matmul(query, keys.transpose(2, 3))
    if layer.softcap is None:
        scores = scores.mul_(layer.scale)
    else:
        scores = scores.mul_(layer.scale / layer.softcap).tanh_().mul_(layer.softcap)
    if mask is not None:
        scores = scores + mask
    return torch.matmul(_softmax(scores, sinks).to(values.dtype), values)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Returns the weights of the keys, in float32. With sinks they add up to less than 1."""
    if sinks is None:
        return scores.softmax(-1, dtype=torch.float32)
    beside = sinks.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, beside), dim=-1).softmax(-1, dtype=torch.float32)[..., :-1]


def additive_mask(hidden: Tensor, like: Tensor) -> Tensor:
    """Returns 0 where `hidden` is False and minus infinity where it is True, in the dtype of `like`."""
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
