"""Tensors in memory of their own from the system, which gets it back as soon as they are freed.

Keys and values come and go in many sizes. On the heap of the C library they would leave gaps that it neither
fills nor returns.
"""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


def new_tensor(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns an uninitialised tensor with the dtype and device of `like`.

    Raises:
        MemoryError: the system has no such memory; on a graphics card torch.OutOfMemoryError, a RuntimeError.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS") or size == 0:
        return like.new_empty(shape)
    try:
        # Private, because neighbours of that kind count as one mapping, whose number is limited.
        mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"the system has no {size} bytes for keys and values") from error
    return torch.frombuffer(mapping, dtype=like.dtype).view(shape)
