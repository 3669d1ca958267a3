"""Owns the way of a loaded model onto the engine's path: its attention, its layers, the form of its weights.

Layer by layer, so that memory peaks at the weights in their new form and one layer in the old one.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from app.core.literals import Quantization
from app.engine import memory
from app.engine.execution.attention import interface as attention
from app.engine.layers import fused as fusion, packed_linear as linear


class UpcastEmbedding(nn.Module):
    """An embedding that keeps its rows as they are stored; only those looked up become `dtype`."""

    def __init__(self, table: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = table.weight.detach()
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight).to(self._dtype)


class PackProgress:
    """Tells `report` which share of the linear layers' weights is done."""

    def __init__(self, model: PreTrainedModel, report: Callable[[float], None]) -> None:
        self._total = max(1, linear.weight_count(*model.modules()))
        self._done = 0
        self._report = report

    def add(self, count: int) -> None:
        memory.return_freed()  # what each layer took on its way would add up
        self._done += count
        self._report(self._done / self._total)


def prepare(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    report: Callable[[float], None] = lambda fraction: None,
) -> str:
    """From here on the model attends through `attention.attend` and computes in `dtype`.

    Returns the form that its linear layers keep their weights in. `report` gets measured shares.
    """
    attention.register()
    model.set_attn_implementation(attention.NAME)
    tally = PackProgress(model, report)
    packer = replace(linear.packer(model.device, model.dtype, dtype, quantization), tell=tally.add)
    linear.pack_children(model, packer)  # the output layer, the largest, while the others are not yet copied
    fusion.fuse(model, packer)
    linear.pack(model, packer)
    _widen(model, dtype)
    return packer.weights


def _widen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Whatever is left in fewer bits than it is to compute in."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Embedding and child.weight.dtype.itemsize < dtype.itemsize:
                setattr(parent, name, UpcastEmbedding(child, dtype))
    for values in model.parameters():
        if values.is_floating_point() and values.element_size() < dtype.itemsize:
            values.data = values.data.to(dtype)
