"""Mixtures of experts whose matrices are layers of their own, so that they can keep their blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Gated = Callable[[Tensor, Tensor], Tensor]  # what becomes of the outputs of gate and up


class Expert(nn.Module):
    """The gated MLP of one expert."""

    def __init__(self, gate: nn.Module, up: nn.Module, down: nn.Module, gated: Gated) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate, up, down
        self._gated = gated

    def forward(self, rows: Tensor) -> Tensor:
        outputs: Tensor = self.down_proj(self._gated(self.gate_proj(rows), self.up_proj(rows)))
        return outputs


class Experts(nn.Module):
    """Replaces the experts of a mixture of transformers, and computes the same."""

    def __init__(self, experts: Sequence[Expert]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, rows: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Returns the weighted sums. `chosen` and `weights` have as many columns as experts see a row."""
        sums = torch.zeros_like(rows)
        for index in torch.unique(chosen).tolist():
            row, column = torch.where(chosen == index)
            outputs = self.experts[index](rows[row]) * weights[row, column, None]
            sums.index_add_(0, row, outputs.to(sums.dtype))
        return sums


def gating_of(experts: Any) -> Gated:  # a class of each architecture
    """Returns how the mixture of transformers combines gate and up."""
    if hasattr(experts, "limit"):  # gpt-oss
        return _clamped(float(experts.alpha), float(experts.limit))
    activation: Callable[[Tensor], Tensor] = experts.act_fn
    return lambda gate, up: activation(gate) * up


def _clamped(alpha: float, limit: float) -> Gated:
    def gated(gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return (up + 1) * gate * torch.sigmoid(gate * alpha)

    return gated
