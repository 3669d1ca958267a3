"""Owns the CPU's linear layers: weights packed once, so that eight rows cost little more than one.

Layers that are given the same rows (query, key and value; gate and up) become one product, because on small
models the call costs as much as the arithmetic. Knows modules and tensors only.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from app.core.literals import Quantization
from app.engine.layers.int8 import MakeLayer, int8_layer

_log = logging.getLogger(__name__)

_EXPECTED_ROWS = 8  # the layout is chosen for this many tokens in a pass; others work as well
_BLOCK = 2**24  # weights that are brought into float16 at a time
_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class PackedLinear(nn.Module):
    """`rows @ weight.T + bias` in bfloat16 or float32; `weight` `[outputs, inputs]` in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.to(dtype).contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
        self._bias = bias

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self._bias, "none", [], "")
        return output


class HalfLinear(nn.Module):
    """float32 rows and sums with weights held in float16, by FBGEMM: half the bytes that every token reads.

    Weights of a 16-bit checkpoint are not changed by it, but for bfloat16's below 1e-7.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, block: int = _BLOCK) -> None:
        super().__init__()
        # By blocks of outputs: packing a whole vocabulary at once takes memory twice, and thrice the time.
        weights = weight.chunk(-(-weight.numel() // block))
        biases = (
            [None] * len(weights)
            if bias is None
            else bias.split_with_sizes([len(block) for block in weights])
        )
        pack = torch.ops.quantized.linear_prepack_fp16
        self._blocks = [pack(block.float(), part) for block, part in zip(weights, biases, strict=True)]

    def forward(self, rows: Tensor) -> Tensor:
        product = torch.ops.quantized.linear_dynamic_fp16
        outputs: list[Tensor] = [product(rows, block) for block in self._blocks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


@dataclass(frozen=True, slots=True)
class Packer:
    """Makes linear layers that compute in `dtype`, each from one or several of transformers'."""

    dtype: torch.dtype
    weights: str  # the form that they are kept in
    make: MakeLayer | None  # None: ordinary layers stay as they are
    tell: Callable[[int], None] = lambda count: None  # is told of so many weights that have their new form

    def linear(self, *layers: nn.Module) -> nn.Module:
        """One layer whose outputs are those of `layers` over the same rows, end to end."""
        made = self._made(layers)
        self.tell(weight_count(*layers))
        return made

    def _made(self, layers: Sequence[nn.Module]) -> nn.Module:
        weight = _joined([_weight(layer) for layer in layers])
        biases = [layer.bias for layer in layers]
        bias = None if biases[0] is None else _joined(biases).to(self.dtype)
        return _ordinary(weight.to(self.dtype), bias) if self.make is None else self.make(weight, bias)

    def linears(self, *groups: Sequence[nn.Module]) -> list[nn.Module]:
        """One layer for each group, made side by side: bringing weights into float16 takes one core long."""
        made = []
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for layers, layer in zip(groups, threads.map(self._made, groups), strict=True):
                self.tell(weight_count(*layers))
                made.append(layer)
        return made


def weight_count(*modules: nn.Module) -> int:
    """Weights of those that are ordinary linear layers, biases apart."""
    return sum(_weight(module).numel() for module in modules if type(module) in (nn.Linear, Conv1D))


def packer(
    device: torch.device, stored: torch.dtype, dtype: torch.dtype, quantization: Quantization = "none"
) -> Packer:
    """What this device computes `dtype` fastest with, of weights that were `stored` so.

    Where it has no 8-bit layers it says so and does without.
    """
    is_cpu = device.type == "cpu"
    if quantization == "int8":
        if is_cpu and (make_int8 := int8_layer(dtype)) is not None:
            return Packer(dtype, "int8", make_int8)
        _log.warning("int8 layers are not available on this device: the model is served unquantised")
    if is_cpu and dtype == torch.float32 and stored.itemsize < dtype.itemsize and _has_half_products():
        return Packer(dtype, "float16", HalfLinear)
    is_packed = is_cpu and (
        computes_in_bfloat16() if dtype == torch.bfloat16 else dtype == torch.float32 and _has_onednn()
    )
    make = partial(PackedLinear, dtype=dtype) if is_packed else None
    return Packer(dtype, str(dtype).removeprefix("torch."), make)


def computes_in_bfloat16(operators: Any = torch.ops.mkldnn) -> bool:  # torch fills it at run time
    """Whether this processor does, by oneDNN, which torch's builds for Apple's have not."""
    if not _has_onednn(operators) or not hasattr(operators, "_is_mkldnn_bf16_supported"):
        return False
    return bool(operators._is_mkldnn_bf16_supported())


@torch.inference_mode()
def _has_half_products() -> bool:
    """Whether torch was built with FBGEMM for this processor."""
    try:
        return bool(HalfLinear(torch.ones(8, 8), None)(torch.ones(1, 8)).eq(8).all())
    except (RuntimeError, AttributeError):  # no such operator in this build, or no engine for it
        return False


def _has_onednn(operators: Any = torch.ops.mkldnn) -> bool:
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(is_there) and hasattr(operators, "_reorder_linear_weight")


class JointLinear:
    """Several layers over the same rows as one product, computed when the first of them is asked."""

    def __init__(self, linear: nn.Module, sizes: Sequence[int]) -> None:
        self._linear = linear
        self._sizes = list(sizes)
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


def pack(model: PreTrainedModel, packer: Packer) -> None:
    """Replace every linear layer, one after the other, so that little is held twice."""
    for parent in list(model.modules()):
        pack_children(parent, packer)


def pack_children(parent: nn.Module, packer: Packer) -> None:
    """The same for the layers that are a module's own."""
    if packer.make is None:
        return
    for names in _SIBLINGS:
        _join(parent, names, packer)
    for name, child in parent.named_children():
        # Exact types: a subclass may compute something else. What a 16-bit model keeps in more stays.
        if type(child) in (nn.Linear, Conv1D) and _is_narrower(child, packer.dtype):
            setattr(parent, name, packer.linear(child))


def _join(parent: nn.Module, names: Sequence[str], packer: Packer) -> None:
    layers = [layer for name in names if type(layer := getattr(parent, name, None)) is nn.Linear]
    has_bias = {layer.bias is not None for layer in layers}
    if len(layers) < len(names) or len(has_bias) > 1 or len({layer.in_features for layer in layers}) > 1:
        return
    joint = JointLinear(packer.linear(*layers), [layer.out_features for layer in layers])
    for index, name in enumerate(names):
        setattr(parent, name, LinearShare(joint, index))


def _is_narrower(layer: nn.Module, dtype: torch.dtype) -> bool:
    weight: Any = layer.weight  # both kinds have one
    return bool(weight.element_size() <= dtype.itemsize)


def _weight(layer: nn.Module) -> Tensor:
    """`[outputs, inputs]`; GPT-2's Conv1D has it transposed."""
    weight: Any = layer.weight  # both kinds have one
    detached: Tensor = weight.detach()
    return detached.t() if type(layer) is Conv1D else detached


def _joined(tensors: Sequence[Any]) -> Tensor:  # parameters of modules, which have no type of their own
    return torch.cat([tensor.detach() for tensor in tensors]) if len(tensors) > 1 else tensors[0].detach()


def _ordinary(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
