"""The Muon optimizer in float32. The one in torch uses bfloat16, which many processors only emulate."""

import math
from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MOMENTUM = 0.95
_STEPS = 5


def orthogonalized(updates: torch.Tensor) -> torch.Tensor:
    """Returns the matrices `[count, rows, columns]`, made nearly orthogonal by Newton-Schulz iteration.

    Follows Keller Jordan et al., https://kellerjordan.github.io/posts/muon.
    """
    is_tall = updates.shape[1] > updates.shape[2]
    x = updates.transpose(1, 2) if is_tall else updates
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if is_tall else x


class Muon(torch.optim.Optimizer):
    """Optimizes matrices only. Each update has an RMS of 0.2, so AdamW's learning rates apply."""

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # without the closure that other optimizers accept
        """Updates every matrix. Each must have a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                rate = group["lr"]
                updates = orthogonalized(torch.stack([self._momentum(matrix) for matrix in matrices]))
                torch._foreach_mul_(matrices, 1 - rate * group["weight_decay"])
                size = 0.2 * math.sqrt(max(shape))
                torch._foreach_add_(matrices, list(updates.unbind()), alpha=-rate * size)

    def _momentum(self, matrix: torch.Tensor) -> torch.Tensor:
        """Returns the gradient with Nesterov momentum."""
        gradient = matrix.grad
        assert gradient is not None
        kept = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        kept.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(kept, _MOMENTUM)
