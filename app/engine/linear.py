"""Owns the CPU's linear layers: weights packed once for oneDNN, so that eight rows cost little more than one.

Layers that are given the same rows (query, key and value; gate and up) become one product, because on small
models the call costs as much as the arithmetic. Knows modules and tensors only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_EXPECTED_ROWS = 8  # the layout is chosen for this many tokens in a pass; others work as well
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinear(nn.Module):
    """`rows @ weight.T + bias` for a bfloat16 `weight` `[outputs, inputs]`, kept only in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _EXPECTED_ROWS)
        self._bias = None if bias is None else bias.detach()

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return output


class JointLinear:
    """Several layers over the same rows as one product, computed when the first of them is asked."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        weight = torch.cat(tuple(layer.weight for layer in layers))
        biases = [layer.bias for layer in layers]
        self._linear = PackedLinear(weight, None if biases[0] is None else torch.cat(tuple(biases)))
        self._sizes = [layer.out_features for layer in layers]
        self._rows: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def output(self, index: int, rows: Tensor) -> Tensor:
        if rows is not self._rows:
            self._rows, self._outputs = rows, self._linear(rows).split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._rows, self._outputs = None, ()  # nothing outlives its pass
        return output


class LinearShare(nn.Module):
    """What stands in a layer's place when it has become part of a joint product."""

    def __init__(self, joint: JointLinear, index: int) -> None:
        super().__init__()
        self._joint = joint
        self._index = index

    def forward(self, rows: Tensor) -> Tensor:
        return self._joint.output(self._index, rows)


def pack(model: PreTrainedModel) -> None:
    """Replace every linear layer of a bfloat16 model on a CPU that computes in it; otherwise do nothing."""
    if not is_packable(model):
        return
    for parent in list(model.modules()):
        for names in _SIBLINGS:
            _join(parent, names)
        for name, child in parent.named_children():
            packed = _packed(child)
            if packed is not None:
                setattr(parent, name, packed)


def is_packable(model: PreTrainedModel) -> bool:
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and computes_in_bfloat16()


def computes_in_bfloat16(operators: Any = torch.ops.mkldnn) -> bool:  # torch fills it at run time
    """Whether this processor does, by oneDNN, which torch's builds for Apple's have not."""
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not is_there or not hasattr(operators, "_is_mkldnn_bf16_supported"):
        return False
    return bool(operators._is_mkldnn_bf16_supported())


def _join(parent: nn.Module, names: Sequence[str]) -> None:
    layers = [layer for name in names if type(layer := getattr(parent, name, None)) is nn.Linear]
    has_bias = {layer.bias is not None for layer in layers}
    if len(layers) < len(names) or len(has_bias) > 1 or len({layer.in_features for layer in layers}) > 1:
        return
    joint = JointLinear(layers)
    for index, name in enumerate(names):
        setattr(parent, name, LinearShare(joint, index))


def _packed(layer: nn.Module) -> PackedLinear | None:
    # Exact types: a subclass may compute something else.
    if type(layer) is nn.Linear:
        return PackedLinear(layer.weight, layer.bias)
    if type(layer) is Conv1D:  # GPT-2's, with the weight transposed
        return PackedLinear(layer.weight.t(), layer.bias)
    return None
