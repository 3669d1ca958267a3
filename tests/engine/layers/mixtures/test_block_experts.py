"""Experts in the blocks of a GGUF file compute what its values say, before they are packed and afterwards."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import quantize
from torch import Tensor, nn

from app.engine.layers.block_groups import grouped, grouped_linear
from app.engine.layers.blocks import BlockExperts, BlockWeight, block_parameters
from app.engine.layers.compiled.linear import CompiledExperts
from app.engine.layers.mixtures.experts import keep_blocks, take_values
from app.engine.layers.mixtures.products import PartialExperts, block_experts
from tests.engine.gguf.mixed_models import tiny_model
from tests.engine.layers.compiled.conftest import needs_product
from tests.engine.layers.mixtures.test_experts import error, experts_of

COUNTS = torch.tensor([2, 0, 5, 1])
ROWS = int(COUNTS.sum())
WIDTH, INNER = 64, 48


def in_blocks(kind: Kind, outputs: int, inputs: int = WIDTH) -> BlockWeight:
    """Returns the random matrices of all experts."""
    values = torch.randn(len(COUNTS) * outputs, inputs)
    return BlockWeight(kind, torch.from_numpy(quantize(values.numpy(), kind)), inputs)


def joint(*kinds: Kind, alternate: bool = False) -> BlockExperts:
    torch.manual_seed(0)
    parts = tuple(in_blocks(kind, INNER) for kind in kinds)
    return BlockExperts(parts, len(COUNTS), torch.float32, alternate)


def of_each_expert(layers: list[nn.Module], rows: Tensor) -> Tensor:
    parts = rows.split_with_sizes(COUNTS.tolist())
    return torch.cat([layer(part) for layer, part in zip(layers, parts, strict=True)])


@needs_product
@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.MXFP4, Kind.Q5_0])
def test_one_product_has_the_outputs_of_layers_with_the_same_blocks(kind: Kind) -> None:
    weights = joint(kind, kind)
    bias, rows = torch.randn(len(COUNTS), 2 * INNER), torch.randn(ROWS, WIDTH)
    experts = block_experts(weights, bias, torch.float32)
    assert isinstance(experts, CompiledExperts)
    layers = [grouped_linear(weights.parts_of(index), own, torch.float32) for index, own in enumerate(bias)]
    assert experts(rows, COUNTS).equal(of_each_expert(layers, rows))


@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize("kinds", [(Kind.Q4_0, Kind.Q4_0), (Kind.Q4_0, Kind.Q8_0), (Kind.Q4_1, Kind.MXFP4)])
def test_packed_experts_compute_with_the_values_of_their_blocks(
    kinds: tuple[Kind, Kind], alternate: bool
) -> None:
    weights = joint(*kinds, alternate=alternate)
    bias, rows = torch.randn(len(COUNTS), 2 * INNER), torch.randn(ROWS, WIDTH)
    experts = block_experts(weights, bias, torch.float32)
    assert isinstance(experts, PartialExperts) == (kinds[0] != kinds[1])
    layers: list[nn.Module] = []
    for index, own in enumerate(bias):
        layer = nn.Linear(WIDTH, 2 * INNER)
        layer.weight, layer.bias = nn.Parameter(weights[index]), nn.Parameter(own)
        layers.append(layer)
    with torch.inference_mode():
        assert error(experts(rows, COUNTS), of_each_expert(layers, rows)) < 0.01


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q8_0, Kind.MXFP4])
def test_blocks_are_not_rounded_a_second_time(kind: Kind) -> None:
    weights = joint(kind)
    for index in range(len(COUNTS)):
        (part,) = weights.parts_of(index)
        torch.testing.assert_close(grouped(part).values(), weights[index], rtol=1e-6, atol=1e-6)


def with_blocks(experts: Any) -> Any:  # each architecture has its own class
    """Returns a copy of the module with its weights in blocks, and gives the module the same values."""
    copied = copy.deepcopy(experts)
    kept = {}
    for name in ("gate_up_proj", "down_proj"):
        weights = getattr(experts, name)
        matrices = weights.transpose(1, 2) if experts.is_transposed else weights
        rows = quantize(matrices.flatten(0, 1).numpy(), Kind.Q8_0)
        part = BlockWeight(Kind.Q8_0, torch.from_numpy(rows), matrices.shape[-1])
        kept[name] = BlockExperts((part,), len(weights), torch.float32, are_transposed=experts.is_transposed)
        weights.copy_(kept[name].values())
    keep_blocks(copied, kept)
    return copied


@pytest.mark.parametrize("case", ["olmoe", "gpt-oss"])
@torch.inference_mode()
def test_code_of_transformers_computes_with_blocks_and_with_their_values(case: str) -> None:
    own = experts_of(tiny_model(case))
    blocks = with_blocks(own)
    weights = sum(getattr(own, name).numel() for name in ("gate_up_proj", "down_proj"))
    assert block_parameters(blocks) == weights
    chosen = torch.rand(9, own.num_experts).topk(2)
    given = torch.randn(9, own.config.hidden_size), chosen.indices, chosen.values
    expected = own(*given)
    assert error(blocks(*given), expected) < 1e-5
    take_values(blocks)
    assert block_parameters(blocks) == 0
    assert blocks.down_proj.equal(own.down_proj)
    assert error(blocks(*given), expected) < 1e-5


def test_part_of_an_expert_has_its_own_rows() -> None:
    weights = joint(Kind.Q8_0, Kind.Q8_0, alternate=True)
    values = [replace(weights, parts=(part,))[2] for part in weights.parts]
    assert weights[2][::2].equal(values[0]) and weights[2][1::2].equal(values[1])
