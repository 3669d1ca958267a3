"""Copies small lists to the device; on CUDA asynchronously, from pinned memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

Numbers = Sequence[int] | Sequence[float] | Sequence[Sequence[int]]


def on_device(numbers: Numbers, device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """Returns a tensor with the shape of `numbers`. On CUDA the copy may still be running."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    # Only a copy from pinned memory is asynchronous. Torch keeps that memory until the copy is done.
    return torch.tensor(numbers, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
