"""Copies small lists to the device, on CUDA without waiting, and gives back its memory."""

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


def free_unused_memory(device: torch.device) -> None:
    """Give back device memory that torch keeps for later. There must be no captured CUDA graph."""
    if device.type == "cuda":
        # Of the products: 33 MB for each stream that ever computed one, such as that of a capture.
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
