"""Compiled layers are exact products of rounded rows, the same on all processors and in any batch."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st

from app.engine.layers.compiled.compiler import find_compiler
from app.engine.layers.compiled.linear import CompiledLinear
from app.engine.layers.compiled.product import GroupedProduct, load_product
from app.engine.layers.group_search import in_four_bits
from app.engine.layers.grouped_weight import GroupedWeight
from tests.engine.layers.compiled.conftest import AVAILABLE, needs_product

pytestmark = needs_product

KINDS = [(4, None), (4, torch.float16), (4, torch.int8), (8, None)]  # bits, and how zeros are kept


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GroupedProduct]:
    folder: Path = tmp_path_factory.mktemp("compiled")
    return {name: load_product(name, folder, find_compiler(os.environ)) for name in AVAILABLE}


@pytest.fixture(params=AVAILABLE)
def product(request: pytest.FixtureRequest, products: dict[str, GroupedProduct]) -> GroupedProduct:
    return products[request.param]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def random_weight(bits: int, outputs: int, inputs: int, zeros: torch.dtype | None = None) -> GroupedWeight:
    torch.manual_seed(bits)
    groups = (outputs, -(-inputs // 32))
    integers = torch.randint(0, 2**bits, (outputs, 32 * groups[1]), dtype=torch.uint8)
    scales = (torch.rand(groups) + 0.1).half().float()
    steps = torch.randint(-127, 128, groups)
    values = {None: None, torch.float16: torch.randn(groups).half().float(), torch.int8: steps * scales / 16}
    return GroupedWeight(bits, integers, scales, values[zeros])


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """Returns the rows as the product sees them: integers in groups of 32 times their scales."""
    padded = torch.nn.functional.pad(rows.float(), (0, -rows.shape[1] % 32)).view(len(rows), -1, 32)
    largest = padded.abs().amax(-1, keepdim=True)
    inverse = torch.full_like(largest, 127 * 128) / largest  # a number over a tensor is computed less exactly
    integers = (padded * inverse).nan_to_num_().round_()
    return (integers.double() * (largest / (127 * 128)).double()).flatten(1)[:, : rows.shape[1]]


@pytest.mark.parametrize(("bits", "zeros"), KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (50, 96), (7, 33), (160, 2048)])
def test_layer_is_the_exact_product_of_rounded_rows(
    product: GroupedProduct, bits: int, zeros: torch.dtype | None, outputs: int, inputs: int
) -> None:
    weight = random_weight(bits, outputs, inputs, zeros)
    bias = torch.randn(outputs)
    layer = CompiledLinear(weight, bias, torch.float32, product)
    for count in (1, 2, 3, 8, 15, 70):
        rows = torch.randn(count, inputs)
        expected = rounded(rows) @ weight.values()[:, :inputs].double().t() + bias
        assert error(layer(rows), expected) < 1e-6


def test_zeros_that_are_sixteenths_of_their_scales_take_a_byte(product: GroupedProduct) -> None:
    none, half, step = (
        CompiledLinear(random_weight(4, 64, 512, zeros), None, torch.float32, product).nbytes
        for zeros in (None, torch.float16, torch.int8)
    )
    assert (half - none, step - none) == (2 * 64 * 16, 64 * 16)


def test_weights_in_four_bits_take_less_than_five_bits(product: GroupedProduct) -> None:
    torch.manual_seed(0)
    layer = CompiledLinear(in_four_bits(torch.randn(64, 512)), None, torch.float32, product)
    assert layer.nbytes * 8 == 64 * 512 * (4 + (16 + 8) / 32)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 0.004), (torch.float16, 0.001)], ids=str)
def test_layer_takes_rows_in_16_bits(product: GroupedProduct, dtype: torch.dtype, limit: float) -> None:
    weight = random_weight(4, 48, 64, torch.float16)
    bias = torch.randn(48).to(dtype)
    rows = torch.randn(2, 5, 64).to(dtype)
    found = CompiledLinear(weight, bias, dtype, product)(rows)
    assert found.dtype == dtype and found.shape == (2, 5, 48)
    exact = rounded(rows.flatten(0, 1)) @ weight.values().double().t() + bias
    assert error(found.flatten(0, 1), exact) < limit


@pytest.mark.parametrize(("bits", "zeros"), KINDS)
def test_output_of_a_row_is_the_same_to_the_bit_on_all_instructions_and_in_any_batch(
    products: dict[str, GroupedProduct], bits: int, zeros: torch.dtype | None
) -> None:
    weight, rows = random_weight(bits, 40, 8192, zeros), torch.randn(200, 8192)
    layers = [CompiledLinear(weight, None, torch.float32, product) for product in products.values()]
    expected = torch.cat([layers[0](row) for row in torch.split(rows, 1)])
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for layer in layers:
                for split in (3, 8, 200):
                    found = torch.cat([layer(some) for some in torch.split(rows, split)])
                    assert found.view(torch.int32).equal(expected.view(torch.int32))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("power", [-80, -20, 20, 90])
@pytest.mark.parametrize(("bits", "zeros"), KINDS)
def test_scales_that_float16_has_no_room_for_are_as_exact(
    product: GroupedProduct, bits: int, zeros: torch.dtype | None, power: int
) -> None:
    weight, rows = random_weight(bits, 20, 96, zeros), torch.randn(3, 96)
    expected = CompiledLinear(weight, None, torch.float32, product)(rows).double() * 2.0**power
    moved = None if weight.zeros is None else weight.zeros * 2.0**power
    other = replace(weight, scales=weight.scales * 2.0**power, zeros=moved)
    assert error(CompiledLinear(other, None, torch.float32, product)(rows), expected) < 1e-6


def test_scales_that_are_not_finite_or_are_all_zero_stay_so(product: GroupedProduct) -> None:
    weight, rows = random_weight(4, 16, 32), torch.ones(1, 32)
    for value in (torch.nan, torch.inf):
        weight.scales[3] = value
        is_finite = CompiledLinear(weight, None, torch.float32, product)(rows).isfinite()
        assert is_finite[0].tolist() == [output != 3 for output in range(16)]
    weight.scales.zero_()
    assert not CompiledLinear(weight, None, torch.float32, product)(rows).any()


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_rows_of_any_size_are_finite_and_near(
    products: dict[str, GroupedProduct], data: st.DataObject
) -> None:
    size = data.draw(st.sampled_from([0.0, 1e-44, 1e-38, 1e-20, 1.0, 1e20, 1e30]))
    count, inputs = data.draw(st.integers(0, 20)), data.draw(st.integers(1, 100))
    rows = size * torch.randn(count, inputs)
    weight = random_weight(8, 20, inputs)
    for product in products.values():
        found = CompiledLinear(weight, None, torch.float32, product)(rows)
        expected = rows.double() @ weight.values()[:, :inputs].double().t()
        assert found.shape == expected.shape and found.isfinite().all()
        assert (found - expected).norm() <= 1e-4 * rows.double().norm() * weight.values().norm() + 1e-30


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_number_that_is_not_finite_spoils_its_own_row_only(
    product: GroupedProduct, dtype: torch.dtype, value: float
) -> None:
    layer = CompiledLinear(random_weight(4, 16, 64, torch.float16), None, dtype, product)
    rows = torch.randn(8, 64)
    rows[3, 40] = value
    is_finite = layer(rows.to(dtype)).isfinite().all(-1)
    assert is_finite.tolist() == [row != 3 for row in range(8)]


def test_huge_activation_leaves_the_others_of_its_group(product: GroupedProduct) -> None:
    weight = random_weight(8, 48, 64)
    rows = torch.randn(5, 64)
    weight.integers[:, 3] = 128  # the centre, which stands for 0
    layer = CompiledLinear(weight, None, torch.float32, product)
    expected = layer(rows).double()
    rows[:, 3] = 500.0  # as real models have it
    assert error(layer(rows), expected) < 0.02


def test_rows_of_another_width_are_refused(product: GroupedProduct) -> None:
    layer = CompiledLinear(random_weight(4, 16, 64), None, torch.float32, product)
    for inputs in (32, 65):
        with pytest.raises(ValueError, match="64 inputs"):
            layer(torch.randn(1, inputs))
