"""Allocates tensors in memory mappings of their own, which return to the system as soon as they are freed.

Keys and values are allocated and freed in many sizes. On the heap of the C library they would leave gaps that
it neither fills nor returns.
"""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


def new_tensor(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns an uninitialised tensor with the dtype and device of `like`.

    Raises:
        MemoryError: the system has too little memory. On a graphics card torch.OutOfMemoryError is raised.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS") or size == 0:
        return like.new_empty(shape)
    try:
        # Private, because the kernel merges adjacent private mappings, and their number is limited.
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system has no room for {size} bytes of keys and values") from error
    return torch.frombuffer(mapping, dtype=like.dtype).view(shape)
