"""Decoder layers in few operations, because on a small model a torch call costs as much as its arithmetic.

They replace modules of transformers and compute the same, which the self-check verifies at every load.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, layer_norm, nn
from torch.nn.functional import gelu, rms_norm, silu
from transformers import PreTrainedModel

from app.engine.execution.attention.interface import AttentionBatch, LayerAttention, refuse_mask
from app.engine.execution.attention.rope import Rope, rope_of
from app.engine.layers.packed_linear import PackedLinear
from app.engine.layers.packer import Packer

# These modules compute what their replacements here compute; those of other families may differ in a detail.
_LAYERS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
_NORMS = (
    *("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"),
    *("SmolLM3RMSNorm", "Phi3RMSNorm", "GraniteRMSNorm"),
)
_TANH_GELU = "NewGELUActivation"
_SILU = ("SiLUActivation", "SiLU")


def fuse(model: PreTrainedModel, packer: Packer) -> None:
    """Replaces the layers that have a fused form, one by one. The packer makes their linear layers."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            fused = _fuse_layer(child, model, packer)
            if fused is not None:
                setattr(parent, name, fused.eval())


def _fuse_layer(module: nn.Module, model: PreTrainedModel, packer: Packer) -> nn.Module | None:
    kind = type(module).__name__
    if kind in _LAYERS and _is_plain(module, model):
        return RotaryLayer(module, packer)
    if kind == "GPT2Block" and _is_usual_gpt2(module):
        return GPT2Layer(module, packer)
    if kind in _NORMS:
        return RMSNorm(module, packer.dtype)
    return nn.GELU(approximate="tanh") if kind == _TANH_GELU else None


def _is_plain(layer: nn.Module, model: PreTrainedModel) -> bool:
    rope: dict[str, Any] = getattr(model.config, "rope_parameters", None) or {}  # as config.json has it
    activation = type(layer.mlp.act_fn).__name__  # type: ignore[union-attr]  # every such layer has it
    return activation in _SILU and rope.get("partial_rotary_factor", 1.0) == 1.0


class RMSNorm(nn.Module):
    """`rows / sqrt(mean(rows²) + eps) * weight` (https://arxiv.org/abs/1910.07467), computed in float32."""

    def __init__(self, norm: Any, dtype: torch.dtype) -> None:  # each architecture has its own class
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().to(dtype), requires_grad=False)
        self.eps = float(norm.variance_epsilon)
        self._size = self.weight.shape[0]
        self._twice = (2 * self._size,)
        self._weight_twice = torch.cat((self.weight, self.weight))

    def forward(self, rows: Tensor) -> Tensor:
        if rows.is_cuda:
            return rms_norm(rows, (self._size,), self.weight, self.eps)  # one kernel on CUDA
        # A row and its negative have the mean 0, so LayerNorm, which has a fast kernel, divides by their RMS.
        both = torch.cat((rows, -rows), dim=-1)
        normed = layer_norm(both, self._twice, self._weight_twice, None, self.eps)
        return normed.narrow(-1, 0, self._size).contiguous()


class RotaryLayer(nn.Module):
    """A decoder layer of the Llama family: norm, attention with rotary positions, norm, gated MLP."""

    def __init__(self, layer: Any, packer: Packer) -> None:  # one of `_LAYERS`, which have these attributes
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.head_dim = int(attention.head_dim)
        self.heads = attention.q_proj.out_features // self.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.attention = LayerAttention(
            int(attention.layer_idx), float(attention.scaling), _window(attention), None
        )
        self.input_norm = RMSNorm(layer.input_layernorm, packer.dtype)
        self.qkv, self.o_proj, self.gate_up, self.down_proj = packer.linears(
            (attention.q_proj, attention.k_proj, attention.v_proj),
            (attention.o_proj,),
            (mlp.gate_proj, mlp.up_proj),
            (mlp.down_proj,),
        )
        self.q_norm, self.k_norm = (
            RMSNorm(getattr(attention, name), packer.dtype) if hasattr(attention, name) else None
            for name in ("q_norm", "k_norm")
        )
        self.mlp_norm = RMSNorm(layer.post_attention_layernorm, packer.dtype)
        self._products = _bare(self.qkv, self.o_proj, self.gate_up, self.down_proj)
        self._norms = _bare(self.input_norm, self.mlp_norm)

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_batch: AttentionBatch,
        **_: Any,  # arguments of transformers for caches that are not used here
    ) -> Tensor:
        """Takes and returns hidden states `[1, rows, width]`."""
        refuse_mask(attention_mask)
        qkv, o_proj, gate_up, down_proj = self._products
        input_norm, mlp_norm = self._norms
        heads = self._rotated(qkv(input_norm(hidden)), _rope(attention_batch, position_embeddings))
        query, pairs = heads.transpose(1, 2).split_with_sizes([self.heads, 2 * self.kv_heads], dim=1)
        pairs = pairs.view(2, 1, self.kv_heads, *pairs.shape[2:])
        attended = attention_batch.attend(self.attention, query, pairs)
        hidden = o_proj(attended.flatten(2)).add_(hidden)
        gate, up = gate_up(mlp_norm(hidden)).chunk(2, dim=-1)
        return down_proj(silu(gate).mul_(up)).add_(hidden)

    def _rotated(self, rows: Tensor, rope: Rope) -> Tensor:
        """Returns the heads of queries, keys and values `[1, rows, heads, dim]`, with rotary positions.

        It writes into `rows`, so that keys and values stay side by side.
        """
        heads = rows.view(1, rows.shape[1], -1, self.head_dim)
        plain = rotated = heads.narrow(2, 0, self.heads + self.kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            query, key = plain.split_with_sizes([self.heads, self.kv_heads], dim=2)
            plain = torch.cat((self.q_norm(query), self.k_norm(key)), dim=2)
        _rotate(plain, *rope, out=rotated)
        return heads


class GPT2Layer(nn.Module):
    """A decoder layer of GPT-2: norm, attention without rotary positions, norm, MLP."""

    def __init__(self, layer: Any, packer: Packer) -> None:  # a GPT2Block, whose attributes these are
        super().__init__()
        attention, mlp = layer.attn, layer.mlp
        self.heads = self.kv_heads = int(attention.num_heads)
        self.head_dim = int(attention.head_dim)
        self.attention = LayerAttention(int(attention.layer_idx), float(attention.scaling), None, None)
        self.input_norm, self.mlp_norm = layer.ln_1, layer.ln_2
        self.qkv, self.o_proj, self.up_proj, self.down_proj = packer.linears(
            (attention.c_attn,), (attention.c_proj,), (mlp.c_fc,), (mlp.c_proj,)
        )
        self._products = _bare(self.qkv, self.o_proj, self.down_proj)
        self.gelu_up = _gelu_after(self.up_proj)

    def forward(
        self,
        hidden: Tensor,
        past_key_values: None = None,
        attention_mask: Tensor | None = None,
        *_: Any,  # arguments of transformers for caches and encoders that are not used here
        attention_batch: AttentionBatch,
        **__: Any,
    ) -> Tensor:
        """Takes and returns hidden states `[1, rows, width]`."""
        refuse_mask(attention_mask)
        qkv, o_proj, down_proj = self._products
        rows = qkv(_normed(hidden, self.input_norm))
        heads = rows.view(1, rows.shape[1], 3 * self.heads, -1).transpose(1, 2)
        query, pairs = heads.split_with_sizes([self.heads, 2 * self.heads], dim=1)
        pairs = pairs.view(2, 1, self.heads, *pairs.shape[2:])
        attended = attention_batch.attend(self.attention, query, pairs)
        hidden = o_proj(attended.flatten(2)).add_(hidden)
        inner = self.gelu_up(_normed(hidden, self.mlp_norm))
        return down_proj(inner).add_(hidden)


def _is_usual_gpt2(layer: Any) -> bool:  # a GPT2Block
    return type(layer.mlp.act).__name__ in (_TANH_GELU, "GELUTanh") and not hasattr(layer, "crossattention")


def _bare(*modules: nn.Module) -> tuple[Callable[[Tensor], Tensor], ...]:
    """Returns the modules' computations without the checks for hooks, which take longer than a small one."""
    return tuple(module.forward for module in modules)


def _gelu_after(linear: nn.Module) -> Callable[[Tensor], Tensor]:
    """Returns the layer followed by GELU, which takes up to two thirds of a product's time by itself."""
    if isinstance(linear, PackedLinear):
        return linear.gelu
    return lambda rows: gelu(linear(rows), approximate="tanh")


def _normed(rows: Tensor, norm: nn.LayerNorm) -> Tensor:
    return layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _window(attention: Any) -> int | None:  # Mistral has it in the config, Qwen in the layer, Llama nowhere
    if type(attention).__name__ == "MistralAttention":
        return attention.config.sliding_window  # type: ignore[no-any-return]
    return getattr(attention, "sliding_window", None)


def _rope(batch: AttentionBatch, position_embeddings: tuple[Tensor, Tensor] | None) -> Rope:
    """Returns the batch's rope. The first layer makes it of the model's embeddings, unless it is there."""
    if batch.rope is None:
        assert position_embeddings is not None, "the caller gives one of them"
        batch.rope = rope_of(*position_embeddings)
    return batch.rope


def _rotate(heads: Tensor, cos: Tensor, signed_sin: Tensor, out: Tensor) -> None:
    """Applies rotary positions (https://arxiv.org/abs/2104.09864) to the two halves of each head.

    Writes into `out`, which may be `heads`.
    """
    swapped = heads.roll(heads.shape[-1] // 2, dims=-1)
    torch.addcmul(heads * cos, swapped, signed_sin, out=out)
