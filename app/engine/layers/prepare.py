"""Puts a loaded model on the engine's path: its attention, its layers and the form of its weights.

It goes layer by layer, so that memory peaks at the weights in their new form and one layer in the old one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedModel

from app.core.literals import Quantization
from app.engine import memory
from app.engine.execution.attention import interface as attention
from app.engine.layers.fused import fuse
from app.engine.layers.packer import Packer, pack, pack_children, weight_count
from app.engine.layers.schemes import Scheme


class UpcastEmbedding(nn.Module):
    """An embedding that keeps its rows as they are stored and converts only those looked up to `dtype`."""

    def __init__(self, stored: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = stored.weight.detach()
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight).to(self._dtype)


class PackProgress:
    """Reports which share of the linear layers' weights is packed."""

    def __init__(self, model: PreTrainedModel, report: Callable[[float], None]) -> None:
        self._total = max(1, weight_count(*model.modules()))
        self._done = 0
        self._report = report

    def add(self, count: int) -> None:
        """Counts weights of a layer that has just been packed."""
        memory.return_freed()  # else the memory that each layer used for packing would add up
        self._done += count
        self._report(self._done / self._total)


def prepare(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    report: Callable[[float], None] = lambda fraction: None,
) -> Scheme:
    """Returns the scheme of the linear layers' weights; `report` takes the share of them that is done.

    Afterwards the model attends through `attention.attend` and computes in `dtype`.
    """
    attention.register()
    model.set_attn_implementation(attention.NAME)
    progress = PackProgress(model, report)
    packer = Packer.choose(model.device, model.dtype, dtype, quantization, progress.add)
    pack_children(model, packer)  # the output layer, the largest, while the others are not yet copied
    fuse(model, packer)
    pack(model, packer)
    _widen(model, dtype)
    return packer.scheme


def _widen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Converts to `dtype` all other parameters that have fewer bits, embeddings only row by row."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Embedding and child.weight.dtype.itemsize < dtype.itemsize:
                setattr(parent, name, UpcastEmbedding(child, dtype))
    for values in model.parameters():
        if values.is_floating_point() and values.element_size() < dtype.itemsize:
            values.data = values.data.to(dtype)
