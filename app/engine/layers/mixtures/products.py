"""Makes the products of the experts of a mixture, whose weights are integers in groups of 32."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import TypeVar

import torch
from torch import Tensor, nn

from app.engine.layers.block_groups import grouped
from app.engine.layers.blocks import BlockExperts
from app.engine.layers.compiled.linear import CompiledExperts
from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.compiled.tiles import TiledWeights, Tiles
from app.engine.layers.group_search import in_eight_bits, in_four_bits
from app.engine.layers.grouped_layers import grouped_layer, has_grouped_products
from app.engine.layers.grouped_weight import GroupedWeight
from app.engine.layers.int8 import int8_layer
from app.engine.layers.packed_linear import MakeLayer

Stored = TypeVar("Stored")
# Of weights `[experts, outputs, inputs]`, as stored, and biases `[experts, outputs]`. The layer is called as
# CompiledExperts is.
MakeExperts = Callable[[Tensor, Tensor | None], nn.Module]


class SeparateExperts(nn.Module):
    """A layer for each expert, which computes that expert's rows."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self._layers = nn.ModuleList(layers)

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """As `CompiledExperts.forward`, with one row at least."""
        parts: tuple[Tensor, ...] = rows.split_with_sizes(counts.tolist())
        return torch.cat([layer(part) for layer, part in zip(self._layers, parts, strict=True) if len(part)])


class PartialExperts(nn.Module):
    """Layers which each have a part of every expert's outputs, because the parts are in different forms."""

    def __init__(
        self, layers: Iterable[nn.Module], joined: Callable[[Sequence[Tensor], int], Tensor]
    ) -> None:
        super().__init__()
        self._layers = nn.ModuleList(layers)
        self._joined = joined

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """As `CompiledExperts.forward`."""
        return self._joined([layer(rows, counts) for layer in self._layers], 1)


def grouped_experts(
    stored: Iterable[Stored],
    in_groups: Callable[[Stored], GroupedWeight],
    bias: Tensor | None,
    dtype: torch.dtype,
) -> nn.Module:
    """Returns a layer of experts whose weights have one shape and one number of bits.

    `in_groups` is called with each of the `stored` ones, in several threads. Weights that are in groups
    already keep their integers. `bias` is `[experts, outputs]`. It needs `has_grouped_products`.
    """
    product = grouped_product()
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        if product is None:
            layers = threads.map(
                lambda one, own: grouped_layer(in_groups(one), own, dtype), stored, _each(bias)
            )
            return SeparateExperts(layers)
        tiles = list(threads.map(lambda one: Tiles.of(in_groups(one)), stored))
    return CompiledExperts(TiledWeights.of(tiles), bias, dtype, product)


def block_experts(weights: BlockExperts, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """Returns a layer of experts whose weights were in blocks, for rows of `dtype`.

    The weights have the integers that linear layers keep of such blocks. `bias` is `[experts, outputs]`. It
    needs `has_grouped_products`.
    """
    if len({part.kind for part in weights.parts}) > 1:
        biases = repeat(None) if bias is None else weights.separated(bias)
        parts = (replace(weights, parts=(part,), alternate=False) for part in weights.parts)
        layers = [block_experts(part, own, dtype) for part, own in zip(parts, biases, strict=False)]
        return PartialExperts(layers, weights.joined)

    def in_groups(index: int) -> GroupedWeight:
        parts = weights.parts_of(index)
        return grouped(replace(parts[0], data=weights.joined([part.data for part in parts])))

    return grouped_experts(range(weights.count), in_groups, bias, dtype)


def int4_experts(dtype: torch.dtype) -> MakeExperts | None:
    """Returns a layer of experts in 4 bits for rows of `dtype`; None if there is no such product here."""
    return partial(_rounded, in_groups=in_four_bits, dtype=dtype) if has_grouped_products() else None


def int8_experts(dtype: torch.dtype) -> MakeExperts | None:
    """Returns a layer of experts in 8 bits for rows of `dtype`; None if there is no such product here."""
    if grouped_product() is not None:
        return partial(_rounded, in_groups=in_eight_bits, dtype=dtype)
    make = int8_layer(dtype)
    return None if make is None else partial(_separate, make=make)


def _rounded(
    weights: Tensor, bias: Tensor | None, in_groups: Callable[[Tensor], GroupedWeight], dtype: torch.dtype
) -> nn.Module:
    return grouped_experts(weights, in_groups, bias, dtype)


def _separate(weights: Tensor, bias: Tensor | None, make: MakeLayer) -> nn.Module:
    return SeparateExperts(map(make, weights, _each(bias)))


def _each(bias: Tensor | None) -> Iterable[Tensor | None]:
    return repeat(None) if bias is None else bias
