"""The Muon optimizer in float32; torch's own computes in bfloat16, which many processors only emulate."""

import math
from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_MOMENTUM = 0.95
_STEPS = 5


def orthogonalized(updates: torch.Tensor) -> torch.Tensor:
    """Each matrix of [count, rows, columns] made nearly orthogonal by Newton and Schulz's iteration.

    After Keller Jordan et al., https://kellerjordan.github.io/posts/muon.
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
    """For matrices only; its rate means what AdamW's does, as each update has an RMS of 0.2."""

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # the closure of torch's other optimizers has no use here
        """One update of every matrix that has a gradient."""
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
        """The gradient smoothed over steps, looking one step ahead as Nesterov does."""
        gradient = matrix.grad
        assert gradient is not None
        kept = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
        kept.lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(kept, _MOMENTUM)
