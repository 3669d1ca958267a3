"""Zeros of groups are sixteenths of their scales where a byte has room for them."""

from math import inf, nan

import pytest
import torch

from app.engine.layers.grouped_weight import in_steps, zero_steps


def test_zeros_become_sixteenths_unless_they_are_too_far_away() -> None:
    zeros, scales = torch.tensor([1.0, 0.4, -7.9, 8.0, -100.0, 0.3, 0.0]), torch.tensor([1.0] * 5 + [0.0] * 2)
    expected = torch.tensor([1.0, 0.375, -7.875, 8.0, -100.0, 0.3, 0.0])
    assert torch.equal(in_steps(zeros, scales), expected)


def test_steps_are_those_of_the_zeros() -> None:
    scales = torch.tensor([[2.0, 1.0], [0.5, 0.0]])
    steps = zero_steps(scales, torch.tensor([[2.0, -7.9375], [0.0, 0.0]]))
    assert steps is not None and steps.dtype == torch.int8
    assert steps.tolist() == [[16, -127], [0, 0]]


@pytest.mark.parametrize(
    ("scale", "zero"), [(1.0, 0.03), (1.0, 8.0), (1.0, -8.0), (0.0, 0.5), (1.0, nan), (nan, 1.0), (1.0, inf)]
)
def test_a_zero_that_is_no_step_leaves_all_as_they_are(scale: float, zero: float) -> None:
    assert zero_steps(torch.tensor([1.0, scale]), torch.tensor([0.5, zero])) is None
