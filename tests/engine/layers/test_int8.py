"""8-bit layers stay near the ones they replace, for few rows and for many."""

import pytest
import torch
from torch import nn

from app.engine.layers.int8 import (
    DynamicInt8Linear,
    WeightInt8Linear,
    has_int8_products,
    int8_layer,
)

kinds = pytest.mark.parametrize("kind", [DynamicInt8Linear, WeightInt8Linear])
ROWS = (1, 8, 33)


def near(kind: type[nn.Module], output: torch.Tensor, expected: torch.Tensor) -> bool:
    # Where a processor lacks products of integers their sums are cut off at 16 bits.
    is_rough = kind is DynamicInt8Linear and not has_int8_products()
    return bool((output - expected).norm() < (0.2 if is_rough else 0.02) * expected.norm())


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_int8_linear_is_near_the_linear(kind: type[nn.Module], bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own = nn.Linear(256, 96, bias=bias)
    quantised = kind(own.weight.detach(), own.bias.detach().to(dtype) if bias else None, dtype)
    for count in ROWS:
        rows = torch.randn(1, count, 256)
        output = quantised(rows.to(dtype))
        assert output.dtype == dtype
        assert output.shape == (1, count, 96)
        assert near(kind, output.float(), own(rows))


@kinds
@torch.inference_mode()
def test_int8_linear_has_a_scale_for_each_channel(kind: type[nn.Module]) -> None:
    weight = torch.randn(4, 64) * torch.tensor([[1e-3], [1.0], [1e3], [0.0]])
    quantised, rows = kind(weight, None, torch.float32), torch.randn(5, 64)
    for output, expected in zip(quantised(rows).t(), (rows @ weight.t()).t(), strict=True):
        assert near(kind, output, expected) or expected.norm() == 0 == output.norm()


@torch.inference_mode()
def test_dynamic_int8_linear_rounds_each_row_by_itself() -> None:
    quantised = DynamicInt8Linear(torch.randn(32, 64), None, torch.float32)
    row = torch.randn(1, 64)
    beside = torch.cat((row, 1000 * torch.randn(3, 64)))
    assert torch.equal(quantised(beside)[:1], quantised(row))


@torch.inference_mode()
def test_weight_int8_linear_is_the_same_product_for_few_rows_and_for_many() -> None:
    quantised = WeightInt8Linear(torch.randn(32, 64), None, torch.float32)
    rows = torch.randn(40, 64)
    one_by_one = torch.cat([quantised(row.unsqueeze(0)) for row in rows])
    assert (quantised(rows) - one_by_one).norm() < 0.005 * one_by_one.norm()


def test_int8_layer_is_one_that_works() -> None:
    make = int8_layer(torch.float32)
    assert make is not None
    layer = make(torch.ones(8, 8), None)
    assert isinstance(layer, DynamicInt8Linear) == has_int8_products()
    assert layer(torch.ones(1, 8)).tolist() == [[8.0] * 8]
