"""Decoder layers for the compiled kernels: their linear layers, and descriptions of the rest."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from app.engine.execution.rows.kernels import DTYPES, MOST_DIM, Attention, Norm, RowKernels, pointer
from app.engine.layers.fused import GPT2Layer, RMSNorm, RotaryLayer

Product = Callable[[Tensor], Tensor]


class RowNorm:
    """A norm of the model. `at` is the argument of the kernel that describes it."""

    def __init__(self, norm: nn.Module) -> None:
        if isinstance(norm, RMSNorm):
            self.weight, self.bias, eps = norm.weight, None, norm.eps
        else:
            assert isinstance(norm, nn.LayerNorm)
            self.weight, self.bias, eps = norm.weight, norm.bias, norm.eps
        self.dtype = self.weight.dtype
        self._values = Norm(
            pointer(self.weight), pointer(self.bias), self.weight.shape[0], eps, DTYPES[self.dtype]
        )
        self.at = ctypes.byref(self._values)


class RowAttention:
    """The attention of a layer. `at` is the argument of the kernel that describes it."""

    def __init__(self, layer: RotaryLayer | GPT2Layer, dtype: torch.dtype) -> None:
        self.width = layer.heads * layer.head_dim
        self._norms: list[RMSNorm] = []
        query_norm = key_norm = None
        eps = 0.0
        if isinstance(layer, RotaryLayer) and layer.q_norm is not None and layer.k_norm is not None:
            self._norms = [layer.q_norm, layer.k_norm]
            query_norm, key_norm = (pointer(norm.weight) for norm in self._norms)
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
    is_bfloat16: int
    gate_up: Product
    down: Product

    def __call__(self, rows: Tensor) -> Tensor:
        both = self.gate_up(rows).contiguous()
        count, size = both.shape[0], both.shape[1] // 2
        inner = both.new_empty(count, size)
        self.kernels.gate(self.is_bfloat16, count, size, both.data_ptr(), inner.data_ptr())
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
            mlp = GatedMLP(kernels, DTYPES[dtype], layer.gate_up.forward, layer.down_proj.forward)
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
    """Returns whether the kernels have room for this layer's heads."""
    return layer.head_dim <= MOST_DIM
