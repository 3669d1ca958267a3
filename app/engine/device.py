"""Owns the way of a few numbers onto the device. On a GPU nobody waits for it, or a pass would begin late."""

from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[float] | Sequence[Sequence[int]]


def on_device(numbers: Numbers, device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """A tensor of their shape."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    # A copy waits unless it begins in pinned memory, which torch keeps until the copy is done.
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
