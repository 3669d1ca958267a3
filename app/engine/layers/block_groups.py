"""Turns the blocks of a GGUF file into groups of integers: 4 bits without a second rounding, or 8 bits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import torch
from gguf.constants import GGMLQuantizationType as Kind
from torch import Tensor, nn

from app.engine.layers.blocks import BlockWeight, matrices_in_blocks
from app.engine.layers.group_search import in_eight_bits
from app.engine.layers.grouped import ParallelLinears
from app.engine.layers.grouped_layers import grouped_layer, has_grouped_products
from app.engine.layers.grouped_weight import GroupedWeight


def grouped(weight: BlockWeight) -> GroupedWeight:
    """Returns the weight in groups. Q4_0, Q4_1, Q4_K, Q8_0 and MXFP4 keep their values; others get 8 bits.

    Scales are in float32, and the layers keep 11 bits of them (the compiled product) or 8 (torch's).
    """
    convert = _EXACT.get(weight.kind)
    if convert is not None:
        return convert(weight.data)
    return GroupedWeight.joined([in_eight_bits(chunk) for chunk in weight.chunks()])


def grouped_linear(parts: Sequence[BlockWeight], bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """Returns one layer whose outputs are those of all parts, which have the same inputs."""
    layers: list[nn.Module] = []
    start = 0
    for _, run in groupby(map(grouped, parts), key=lambda part: (part.bits, part.zeros is None)):
        weight = GroupedWeight.joined(list(run))
        end = start + len(weight.integers)
        layers.append(grouped_layer(weight, None if bias is None else bias[start:end], dtype))
        start = end
    return layers[0] if len(layers) == 1 else ParallelLinears(layers)


def bits_of(kind: Kind) -> int:
    """Returns the number of bits of the integers in which blocks of this kind are kept."""
    return 4 if kind in _EXACT and kind not in _EXACT_IN_8_BITS else 8


def describe(model: nn.Module) -> str | None:
    """Returns the forms in which the layers keep their blocks; None if they keep none."""
    if not has_grouped_products():
        return None
    kinds = {weight.kind for weight in matrices_in_blocks(model)}
    return _described(kinds) if kinds else None


def _described(kinds: Iterable[Kind]) -> str:
    return ", ".join(f"int{bits_of(kind)} ({kind.name})" for kind in sorted(kinds))


def _halves(part: Tensor) -> Tensor:
    """Returns the scales that are stored as float16 in the bytes `[..., 2 * n]`."""
    return part.contiguous().view(torch.float16).float()


def _blocks(data: Tensor, size: int) -> Tensor:
    return data.view(len(data), -1, size)


def _nibbles(part: Tensor) -> Tensor:
    """Returns the low nibbles of each block's bytes, then the high ones, in one row for each output."""
    return torch.cat((part & 15, part >> 4), dim=-1).flatten(1)


def _q4_0(data: Tensor) -> GroupedWeight:
    blocks = _blocks(data, 18)
    return GroupedWeight(4, _nibbles(blocks[..., 2:]), _halves(blocks[..., :2]).squeeze(-1))


def _q4_1(data: Tensor) -> GroupedWeight:
    blocks = _blocks(data, 20)
    scales, least = _halves(blocks[..., :4]).unbind(-1)
    return GroupedWeight(4, _nibbles(blocks[..., 4:]), scales, least + 8 * scales)


def _q4_k(data: Tensor) -> GroupedWeight:
    blocks = _blocks(data, 144)
    scale, least_scale = _halves(blocks[..., :4]).unbind(-1)
    steps, leasts = _q4_k_factors(blocks[..., 4:16])
    scales = (scale.unsqueeze(-1) * steps).flatten(1)
    least = (least_scale.unsqueeze(-1) * leasts).flatten(1)
    runs = blocks[..., 16:].reshape(len(data), -1, 32)  # two sub-blocks in each
    return GroupedWeight(4, _nibbles(runs), scales, 8 * scales - least)


def _q4_k_factors(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the 6-bit factors of each sub-block's scale and least value, `[..., 8]`."""
    first, second, third = packed.reshape(*packed.shape[:-1], 3, 4).unbind(-2)
    scales = torch.cat((first & 63, (third & 15) | ((first >> 2) & 48)), dim=-1)
    leasts = torch.cat((second & 63, (third >> 4) | ((second >> 2) & 48)), dim=-1)
    return scales, leasts


def _q8_0(data: Tensor) -> GroupedWeight:
    blocks = _blocks(data, 34)
    return GroupedWeight(8, (blocks[..., 2:] + 128).flatten(1), _halves(blocks[..., :2]).squeeze(-1))


def _mxfp4(data: Tensor) -> GroupedWeight:
    """Returns 4-bit floats (https://arxiv.org/abs/2310.10537) in 8 bits, doubled to make integers of them."""
    blocks = _blocks(data, 17)
    doubled = torch.tensor(_DOUBLED_FLOATS + [-value for value in _DOUBLED_FLOATS])
    integers = (doubled + 128).to(torch.uint8)[_nibbles(blocks[..., 1:]).int()]
    exponents = blocks[..., 0].float() - 128  # 127 of the scale, and 1 for the doubling
    return GroupedWeight(8, integers, torch.exp2(exponents))


_DOUBLED_FLOATS = [0, 1, 2, 3, 4, 6, 8, 12]
_EXACT: Mapping[Kind, Callable[[Tensor], GroupedWeight]] = {
    Kind.Q4_0: _q4_0,
    Kind.Q4_1: _q4_1,
    Kind.Q4_K: _q4_k,
    Kind.Q8_0: _q8_0,
    Kind.MXFP4: _mxfp4,
}
_EXACT_IN_8_BITS = (Kind.Q8_0, Kind.MXFP4)
