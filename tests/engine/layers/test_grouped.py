"""Layers of integers in groups of 32 compute what their weights say, for few rows and for many."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from hypothesis import given, settings, strategies as st

from app.engine.layers.block_groups import bits_of, grouped, grouped_linear
from app.engine.layers.blocks import BlockWeight
from app.engine.layers.group_search import in_eight_bits, in_four_bits
from app.engine.layers.grouped import GroupedLinear
from app.engine.layers.grouped_layers import grouped_int8_layer, int4_layer
from app.engine.layers.grouped_weight import GroupedWeight

ROWS = (1, 4, 33, 70, 250)
ROUNDING = 0.006  # relative error of a sum whose terms are rounded to bfloat16


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def random_weight(bits: int, outputs: int, inputs: int, *, has_zeros: bool = False) -> GroupedWeight:
    torch.manual_seed(bits)
    groups = (outputs, inputs // 32)
    return GroupedWeight(
        bits,
        torch.randint(0, 2**bits, (outputs, inputs), dtype=torch.uint8),
        torch.rand(groups) + 0.1,
        torch.randn(groups) if has_zeros else None,
    )


def blocks(kind: Kind, outputs: int = 96, inputs: int = 256) -> BlockWeight:
    rng = np.random.default_rng(0)
    if kind is Kind.Q4_K:  # the gguf package cannot write it
        data = rng.integers(0, 256, (outputs, inputs // 256, 144), dtype=np.uint8)
        data[..., :4] = np.array([0.01, 0.02], dtype=np.float16).view(np.uint8)
        return BlockWeight(kind, torch.from_numpy(data.reshape(outputs, -1)), inputs)
    values = rng.standard_normal((outputs, inputs), dtype=np.float32)
    return BlockWeight(kind, torch.from_numpy(quantize(values, kind)), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("bits", "has_zeros"), [(4, False), (4, True), (8, False)])
@pytest.mark.parametrize("outputs", [64, 100, 192])
@torch.inference_mode()
def test_grouped_linear_multiplies_by_its_weight(
    bits: int, has_zeros: bool, outputs: int, dtype: torch.dtype
) -> None:
    weight, bias = random_weight(bits, outputs, 96, has_zeros=has_zeros), torch.randn(outputs)
    layer = GroupedLinear(weight, bias.to(dtype), dtype)
    for count in ROWS:
        rows = torch.randn(1, count, 96)
        found = layer(rows.to(dtype))
        assert found.dtype == dtype and found.shape == (1, count, outputs)
        assert error(found, rows @ weight.values().t() + bias) < ROUNDING


@torch.inference_mode()
def test_few_rows_and_many_give_the_same() -> None:
    for bits in (4, 8):
        layer = GroupedLinear(random_weight(bits, 128, 64, has_zeros=bits == 4), None, torch.float32)
        rows = torch.randn(250, 64)
        assert error(layer(rows), torch.cat([layer(row.unsqueeze(0)) for row in rows])) < ROUNDING


@pytest.mark.parametrize("make", [in_four_bits, in_eight_bits])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_transposed_weights_as_in_gpt2_are_rounded_like_others(
    make: Callable[[torch.Tensor], GroupedWeight], dtype: torch.dtype
) -> None:
    weight = torch.randn(128, 96).to(dtype)
    assert torch.equal(make(weight.t().contiguous().t()).values(), make(weight).values())


@pytest.mark.parametrize("kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q8_0, Kind.MXFP4])
def test_blocks_of_the_common_kinds_keep_their_values(kind: Kind) -> None:
    weight = blocks(kind)
    expected = torch.from_numpy(dequantize(weight.data.numpy(), kind))
    assert error(grouped(weight).values(), expected) < 1e-6
    assert grouped(weight).bits == bits_of(kind)


@pytest.mark.parametrize("kind", [Kind.Q5_0, Kind.Q5_1])
def test_other_blocks_lose_little_in_eight_bits(kind: Kind) -> None:
    weight = blocks(kind)
    expected = torch.from_numpy(dequantize(weight.data.numpy(), kind))
    assert bits_of(kind) == 8
    assert error(grouped(weight).values(), expected) < 0.01  # their own rounding costs five times as much


@torch.inference_mode()
def test_parts_of_several_kinds_become_one_layer() -> None:
    parts = [blocks(Kind.Q4_1), blocks(Kind.Q4_1, 32), blocks(Kind.Q5_0, 64)]
    bias, rows = torch.randn(192), torch.randn(3, 256)
    expected = rows @ torch.cat([part.values(torch.float32) for part in parts]).t() + bias
    assert error(grouped_linear(parts, bias, torch.float32)(rows), expected) < 2 * ROUNDING


@pytest.mark.parametrize("inputs", [32, 48, 576])
@torch.inference_mode()
def test_four_bits_lose_less_than_the_range_of_each_group_alone(inputs: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(128, inputs)
    padded = torch.nn.functional.pad(weight, (0, -inputs % 32))
    by_range = torch.from_numpy(dequantize(quantize(padded.numpy(), Kind.Q4_1), Kind.Q4_1))[:, :inputs]
    searched = in_four_bits(weight).values()[:, :inputs]
    assert error(searched, weight) < 0.97 * error(by_range, weight)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e6]))
@settings(max_examples=50)
def test_search_is_finite_and_near_for_every_size_of_weights(seed: int, size: float) -> None:
    weight = size * torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    for rounded, limit in ((in_four_bits(weight), 0.12), (in_eight_bits(weight), 0.02)):
        values = rounded.values()
        assert values.isfinite().all()
        assert (values - weight).norm() <= limit * weight.norm() + 1e-9


@pytest.mark.parametrize(("make", "limit"), [(int4_layer, 0.1), (grouped_int8_layer, 0.01)])
@torch.inference_mode()
def test_layers_of_float_weights_take_any_number_of_inputs(make: object, limit: float) -> None:
    assert callable(make)
    layer_of = make(torch.bfloat16)
    for inputs in (32, 48, 96):
        weight, rows = torch.randn(40, inputs), torch.randn(2, 5, inputs)
        found = layer_of(weight, None)(rows.bfloat16())
        assert error(found, rows @ weight.t()) < limit
