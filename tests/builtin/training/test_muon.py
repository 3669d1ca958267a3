"""Muon makes nearly orthogonal updates for matrices of any shape, and reduces a loss."""

import pytest
import torch

from app.builtin.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 12, 40), (2, 40, 12)])
def test_orthogonalized_updates_have_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    made = orthogonalized(torch.randn(shape))
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert 0.3 < values.min() <= values.max() < 1.3


def test_muon_descends() -> None:
    torch.manual_seed(2)
    matrix, goal = torch.nn.Parameter(torch.randn(8, 8)), torch.randn(8, 8)
    optimizer = Muon([matrix], lr=0.2, weight_decay=0.0)
    losses = []
    for _ in range(50):
        loss = (matrix - goal).square().mean()
        matrix.grad = torch.autograd.grad(loss, matrix)[0]
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0] / 4
