"""Replaces a model's linear layers with those of a scheme, one after the other to save memory.

Layers with the same input (query, key and value; gate and up) become one product, because on small models a
call costs as much as its arithmetic.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.core.literals import Quantization
from app.engine.layers.block_groups import grouped_linear
from app.engine.layers.blocks import BlockLinear
from app.engine.layers.grouped import ParallelLinears
from app.engine.layers.grouped_layers import has_grouped_products
from app.engine.layers.mixtures.products import MakeExperts
from app.engine.layers.packed_linear import MakeLayer, ordinary_linear
from app.engine.layers.schemes import QUANTISED, Scheme, choose_scheme

_LINEAR = (nn.Linear, Conv1D, BlockLinear)
# Of layers with few bits, whose products have sums in float32: bfloat16 would make near logits equal.
_LOGITS_DTYPE = torch.float32
_READ_DIRECTLY = {"dt_proj"}  # small layers whose weight the state space around them reads
# Names of transformers for modules that choose experts. They are tiny, and a wrong expert costs much quality.
_ROUTERS = {"gate", "router", "shared_expert_gate"}
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@dataclass(frozen=True, slots=True)
class Packer:
    """Makes linear layers that compute in `dtype`, each from one or several layers of transformers."""

    dtype: torch.dtype
    scheme: Scheme
    make_layer: MakeLayer | None  # None: keep ordinary layers
    make_output_layer: MakeLayer | None  # of the vocabulary; None as above
    on_packed: Callable[[int], None]  # called with the number of weights in each new layer
    make_experts: MakeExperts | None = None  # None: keep the experts of mixtures
    kept: frozenset[nn.Module] = frozenset()  # layers that stay as they are

    @classmethod
    def choose(
        cls,
        device: torch.device,
        stored: torch.dtype,
        dtype: torch.dtype,
        quantization: Quantization = "none",
        on_packed: Callable[[int], None] = lambda count: None,
    ) -> "Packer":
        """Returns the fastest packer on the device for weights that are `stored` in this dtype."""
        scheme, layer = choose_scheme(device, stored, dtype, quantization)
        logits_dtype = _LOGITS_DTYPE if scheme.name in QUANTISED else dtype
        output_layer = None if layer is None else scheme.output_layer_on(device, logits_dtype)
        experts = scheme.experts_on(device, dtype)
        return cls(dtype, scheme, layer, output_layer, on_packed, experts)

    def without_routers(self, model: nn.Module) -> "Packer":
        """Returns a packer that does not round the layers of this model that choose experts."""
        return replace(self, kept=_router_layers(model)) if self.scheme.name in QUANTISED else self

    def linear(self, *layers: nn.Module, is_output: bool = False) -> nn.Module:
        """Returns one layer whose outputs are the concatenated outputs of `layers`.

        `is_output`: whether they are the model's logits.
        """
        made = self._made(layers, is_output)
        self.on_packed(weight_count(*layers))
        return made

    def linears(self, *groups: Sequence[nn.Module]) -> list[nn.Module]:
        """Returns one layer per group. They are made in parallel, because converting weights takes long."""
        made = []
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for layers, layer in zip(groups, threads.map(self._made, groups), strict=True):
                self.on_packed(weight_count(*layers))
                made.append(layer)
        return made

    def _made(self, layers: Sequence[nn.Module], is_output: bool = False) -> nn.Module:
        blocks = [layer.stored for layer in layers if isinstance(layer, BlockLinear)]
        if not blocks or not has_grouped_products():
            return self._made_of_values(layers, is_output)
        if len(blocks) < len(layers):
            return ParallelLinears([self._made([layer]) for layer in layers])
        dtype = _LOGITS_DTYPE if is_output else self.dtype
        return grouped_linear(blocks, self._bias(layers), dtype)

    def _made_of_values(self, layers: Sequence[nn.Module], is_output: bool) -> nn.Module:
        weight = _joined([_weight(layer, self.dtype) for layer in layers])
        make = self.make_output_layer if is_output else self.make_layer
        bias = self._bias(layers)
        if make is None:
            return ordinary_linear(weight.to(self.dtype), bias)
        return make(weight, bias)

    def _bias(self, layers: Sequence[nn.Module]) -> Tensor | None:
        biases = [layer.bias for layer in layers]
        return None if biases[0] is None else _joined(biases).to(self.dtype)


class JointLinear:
    """Several layers over the same rows, computed as one product when the first of them is called."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        self._linear = linear
        self._sizes = list(sizes)
        self._rows: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    def output(self, index: int, rows: Tensor) -> Tensor:
        """Returns the output of the layer with this index."""
        if rows is not self._rows:
            self._rows, self._outputs = rows, self._linear(rows).split(self._sizes, dim=-1)
        output = self._outputs[index]
        if index == len(self._sizes) - 1:
            self._rows, self._outputs = None, ()  # keep nothing after the pass
        return output


class LinearShare(nn.Module):
    """Replaces a layer that has become part of a joint product."""

    def __init__(self, joint: JointLinear, index: int) -> None:
        super().__init__()
        self._joint = joint
        self._index = index

    def forward(self, rows: Tensor) -> Tensor:
        return self._joint.output(self._index, rows)


def pack(model: PreTrainedModel, packer: Packer) -> None:
    """Replaces every linear layer of the model."""
    for parent in list(model.modules()):
        pack_children(parent, packer)


def pack_children(parent: nn.Module, packer: Packer) -> None:
    """Replaces the linear layers among the module's direct children."""
    if packer.make_layer is None and not any(isinstance(child, BlockLinear) for child in parent.children()):
        return
    for names in _SIBLINGS:
        _join(parent, names, packer)
    for name, child in parent.named_children():
        # Exact types only: a subclass may compute something else. Layers wider than the model's dtype stay.
        is_linear = type(child) in _LINEAR and name not in _READ_DIRECTLY
        if is_linear and child not in packer.kept and _fits(child, packer.dtype):
            is_output = isinstance(parent, PreTrainedModel)
            layer = packer.linear(child, is_output=is_output)
            if is_output and not hasattr(layer, "weight"):  # Mamba asks its output layer for a dtype
                layer.weight = nn.Parameter(torch.empty(0, dtype=packer.dtype), requires_grad=False)
            setattr(parent, name, layer)


def weight_count(*modules: nn.Module) -> int:
    """Returns the number of weights, without biases, in those modules that are ordinary linear layers."""
    return sum(_count(module) for module in modules if type(module) in _LINEAR)


def _router_layers(model: nn.Module) -> frozenset[nn.Module]:
    return frozenset(
        layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and not _ROUTERS.isdisjoint(name.split("."))
    )


def _join(parent: nn.Module, names: Sequence[str], packer: Packer) -> None:
    found = [getattr(parent, name, None) for name in names]
    layers = [
        layer for layer in found if isinstance(layer, nn.Linear | BlockLinear) and type(layer) in _LINEAR
    ]
    has_bias = {layer.bias is not None for layer in layers}
    if len(layers) < len(names) or len(has_bias) > 1 or len({layer.in_features for layer in layers}) > 1:
        return
    joint = JointLinear(packer.linear(*layers), [layer.out_features for layer in layers])
    for index, name in enumerate(names):
        setattr(parent, name, LinearShare(joint, index))


def _fits(layer: nn.Module, dtype: torch.dtype) -> bool:
    if isinstance(layer, BlockLinear):
        return True
    weight: Any = layer.weight  # both kinds have one
    return bool(weight.element_size() <= dtype.itemsize)


def _count(layer: nn.Module) -> int:
    if isinstance(layer, BlockLinear):
        return layer.stored.count
    weight: Any = layer.weight  # both kinds have one
    return int(weight.numel())


def _weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """Returns the weight as `[outputs, inputs]`, in `dtype` if it was in blocks.

    GPT-2's Conv1D stores it transposed.
    """
    if isinstance(layer, BlockLinear):
        return layer.stored.values(dtype)
    weight: Any = layer.weight  # both kinds have one
    detached: Tensor = weight.detach()
    return detached.t() if type(layer) is Conv1D else detached


def _joined(tensors: Sequence[Any]) -> Tensor:  # parameters of modules, which have no type of their own
    return torch.cat([tensor.detach() for tensor in tensors]) if len(tensors) > 1 else tensors[0].detach()
