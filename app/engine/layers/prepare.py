"""Converts a loaded model for the engine: the form of its weights and, if it is packed, its attention.

One layer is converted at a time, so that at most one layer's weights are in memory twice.
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
from app.engine.layers.block_groups import describe
from app.engine.layers.compiled.linear import CompiledExperts, CompiledLinear
from app.engine.layers.fused import fuse
from app.engine.layers.mixtures.experts import expert_weight_count, pack_experts
from app.engine.layers.packer import Packer, pack, pack_children, weight_count
from app.engine.layers.schemes import QUANTISED, ROUNDING_16_BITS, Scheme

_NEARLY_ALL = 0.9  # of the weights


class UpcastEmbedding(nn.Module):
    """An embedding that keeps its rows in the stored dtype and converts only the rows that it returns."""

    def __init__(self, stored: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = stored.weight.detach()
        self._dtype = dtype

    def forward(self, ids: Tensor) -> Tensor:
        return embedding(ids, self.weight).to(self._dtype)


class PackProgress:
    """Reports the share that is packed of the `total` weights of linear layers and experts."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self.total = 0
        self._report = report
        self.done = 0

    def add(self, count: int) -> None:
        """Counts the weights of a layer that has just been packed."""
        memory.return_freed()  # otherwise the memory used for packing each layer would add up
        self.done += count
        self._report(self.done / self.total)


def prepare(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    report: Callable[[float], None] = lambda fraction: None,
) -> Scheme:
    """Makes the model attend through `attention.attend` and compute in `dtype`.

    Returns the scheme of the linear layers' weights. `report` is called with the share that is done.
    """
    attention.register()
    model.set_attn_implementation(attention.NAME)
    return convert_layers(model, dtype, quantization, report, fuses=True)


def convert_layers(
    model: PreTrainedModel,
    dtype: torch.dtype,
    quantization: Quantization = "none",
    report: Callable[[float], None] = lambda fraction: None,
    *,
    fuses: bool,
) -> Scheme:
    """As `prepare`, but leaves the attention as it is. `fuses`: whether layers may take packed rows only."""
    forms = describe(model)
    progress = PackProgress(report)
    packer = Packer.choose(model.device, model.dtype, dtype, quantization, progress.add)
    packer = packer.without_routers(model)
    progress.total = weight_count(*set(model.modules()) - packer.kept) + expert_weight_count(model, packer)
    pack_children(model, packer)  # the output layer first: it is the largest, and nothing else is copied yet
    if fuses:
        fuse(model, packer)
    pack(model, packer)
    pack_experts(model, packer)
    _widen(model, dtype)
    if forms is None:
        share = _share(model, progress.done) if packer.scheme.name in QUANTISED else ""
        return replace(packer.scheme, name=packer.scheme.name + share)
    rounding = ROUNDING_16_BITS
    if any(isinstance(layer, CompiledLinear | CompiledExperts) for layer in model.modules()):
        # Rows are rounded otherwise than by the model's own path: SmolLM2's file has an error of 0.12.
        rounding = QUANTISED["int8"].tolerance
    return replace(packer.scheme, name=forms, tolerance=max(packer.scheme.tolerance, rounding))


def _share(model: PreTrainedModel, packed: int) -> str:
    """Returns the share of the weights that were packed, as a suffix to their form; empty if nearly all.

    Experts in another form than `pack_experts` knows are no linear layers either.
    """
    other = [layer for layer in model.modules() if not isinstance(layer, nn.Embedding | UpcastEmbedding)]
    weights = [weight for layer in other for weight in layer.parameters(recurse=False) if weight.dim() > 1]
    share = packed / max(1, packed + sum(weight.numel() for weight in weights))
    return "" if share >= _NEARLY_ALL else f" ({share:.0%} of the weights)"


def _widen(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Converts all other parameters that have fewer bits to `dtype`. Embeddings are converted row by row."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Embedding and child.weight.dtype.itemsize < dtype.itemsize:
                setattr(parent, name, UpcastEmbedding(child, dtype))
    for values in model.parameters():
        if values.is_floating_point() and values.element_size() < dtype.itemsize:
            values.data = values.data.to(dtype)
