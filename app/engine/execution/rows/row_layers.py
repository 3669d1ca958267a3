"""Decoder layers for the compiled kernels: their linear layers, and descriptions of the rest."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.engine.execution.rows.kernels import MOST_DIM, Attention, Norm, RowKernels, pointer
from app.engine.layers.compiled.product import DTYPES
from app.engine.layers.fused import GPT2Layer, RMSNorm, RotaryLayer

Product = Callable[[Tensor], Tensor]


class RowNorm:
    """A norm of the model. `at` is the argument of the kernel that describes it."""

    def __init__(self, norm: nn.Module) -> None:
        assert isinstance(norm, RMSNorm | nn.LayerNorm)
        # Tensors of their own, so that the memory stays if the module is given another.
        self._weight = norm.weight.detach()
        self._bias = norm.bias.detach() if isinstance(norm, nn.LayerNorm) else None
        self.dtype, self.size = self._weight.dtype, self._weight.shape[0]
        self._values = Norm(
            pointer(self._weight), pointer(self._bias), self.size, norm.eps, DTYPES[self.dtype]
        )
        self.at = ctypes.byref(self._values)


class RowAttention:
    """The attention of a layer. `at` is the argument of the kernel that describes it."""

    def __init__(self, layer: RotaryLayer | GPT2Layer, dtype: torch.dtype) -> None:
        self.width = layer.heads * layer.head_dim
        self.input_width = self.width + 2 * layer.kv_heads * layer.head_dim
        self._norms: list[Tensor] = []
        query_norm = key_norm = None
        eps = 0.0
        if isinstance(layer, RotaryLayer) and layer.q_norm is not None and layer.k_norm is not None:
            self._norms = [norm.weight.detach() for norm in (layer.q_norm, layer.k_norm)]
            query_norm, key_norm = map(pointer, self._norms)
            eps = layer.q_norm.eps
        self._values = Attention(
            query_norm,
            key_norm,
            None,
            layer.heads,
            layer.kv_heads,
            layer.head_dim,
            layer.attention.window or 0,
            layer.attention.scale,
            eps,
            DTYPES[dtype],
        )
        self.index = layer.attention.index
        self.at = ctypes.byref(self._values)

    def rotate_by(self, table: Tensor) -> None:
        """Use this table of RopeTable."""
        self._values.rope = pointer(table)


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """`down(silu(gate) * up)`, whose input the kernel computes from one product."""

    kernels: RowKernels
    dtype: torch.dtype
    gate_up: Product
    down: Product

    def __call__(self, rows: Tensor) -> Tensor:
        both = self.gate_up(rows).to(self.dtype).contiguous()
        count, size = both.shape[0], both.shape[1] // 2
        inner = both.new_empty(count, size)
        self.kernels.gate(DTYPES[self.dtype], count, size, both.data_ptr(), inner.data_ptr())
        return self.down(inner)


@dataclass(frozen=True, slots=True)
class PlainMLP:
    """`down(up)`, where the first product includes its activation."""

    up: Product
    down: Product

    def __call__(self, rows: Tensor) -> Tensor:
        return self.down(self.up(rows))


@dataclass(frozen=True, slots=True)
class RowLayer:
    """One decoder layer."""

    input_norm: RowNorm
    qkv: Product
    attention: RowAttention
    o_proj: Product
    mlp_norm: RowNorm
    mlp: Product

    @classmethod
    def of(cls, layer: RotaryLayer | GPT2Layer, kernels: RowKernels, dtype: torch.dtype) -> "RowLayer":
        mlp: Product
        if isinstance(layer, RotaryLayer):
            mlp = GatedMLP(kernels, dtype, layer.gate_up.forward, layer.down_proj.forward)
        else:
            mlp = PlainMLP(layer.gelu_up, layer.down_proj.forward)
        return cls(
            RowNorm(layer.input_norm),
            layer.qkv.forward,
            RowAttention(layer, dtype),
            layer.o_proj.forward,
            RowNorm(layer.mlp_norm),
            mlp,
        )


def takes(layer: RotaryLayer | GPT2Layer) -> bool:
    """Returns whether the kernels have room for this layer's heads, and compute its norms and attention."""
    attention = layer.attention
    has_usual_scores = attention.softcap is None and attention.sinks is None
    has_usual_heads = layer.head_dim <= MOST_DIM and layer.heads % layer.kv_heads == 0
    return has_usual_scores and has_usual_heads and all(map(takes_norm, (layer.input_norm, layer.mlp_norm)))


def takes_norm(norm: nn.Module) -> bool:
    """Returns whether the kernels compute this norm. A subclass may compute something else."""
    if type(norm) is nn.LayerNorm:
        return norm.weight is not None and norm.bias is not None
    return type(norm) is RMSNorm
