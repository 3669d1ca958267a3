"""8-bit layers stay near the ones they replace, for few rows and for many."""

import pytest
import torch
from torch import nn

from app.engine.layers.int8 import WeightInt8Linear, int8_layer

ROWS = (1, 8, 33)


def error(output: torch.Tensor, expected: torch.Tensor) -> float:
    return float((output.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("is_best", [True, False])
@torch.inference_mode()
def test_int8_layer_is_near_the_linear(is_best: bool, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    own = nn.Linear(256, 96, bias=bias)
    weight, own_bias = own.weight.detach(), own.bias.detach().to(dtype) if bias else None
    make = int8_layer(dtype)
    assert make is not None
    quantised = make(weight, own_bias) if is_best else WeightInt8Linear(weight, own_bias, dtype)
    for count in ROWS:
        rows = torch.randn(1, count, 256)
        output = quantised(rows.to(dtype))
        assert output.dtype == dtype
        assert output.shape == (1, count, 96)
        assert error(output, own(rows)) < 0.02


@torch.inference_mode()
def test_weight_int8_linear_has_a_scale_for_each_output() -> None:
    weight = torch.randn(4, 64) * torch.tensor([[1e-3], [1.0], [1e3], [0.0]])
    quantised, rows = WeightInt8Linear(weight, None, torch.float32), torch.randn(5, 64)
    for output, expected in zip(quantised(rows).t(), (rows @ weight.t()).t(), strict=True):
        assert output.equal(expected) or error(output, expected) < 0.02


@torch.inference_mode()
def test_weight_int8_linear_is_the_same_product_for_few_rows_and_for_many() -> None:
    quantised = WeightInt8Linear(torch.randn(32, 64), None, torch.float32)
    rows = torch.randn(40, 64)
    one_by_one = torch.cat([quantised(row.unsqueeze(0)) for row in rows])
    assert error(quantised(rows), one_by_one) < 0.005


@torch.inference_mode()
def test_int8_layer_keeps_what_huge_activations_leave_of_a_row() -> None:
    torch.manual_seed(0)
    weight, rows = torch.randn(64, 256), torch.randn(20, 256)
    rows[:, 3] = 500.0  # as real models have them
    weight[:, 3] = 0
    make = int8_layer(torch.float32)
    assert make is not None
    assert error(make(weight, None)(rows), rows @ weight.t()) < 0.02
