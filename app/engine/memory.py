"""Owns what this process may and does use of the machine's memory, in bytes."""

import contextlib
import ctypes
import mmap
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import torch
from torch import Tensor

from app.core.machine import CGROUPS, available_bytes

_CACHE_SHARE_CPU = 0.4  # of what is free: other programs and activations need the rest
_CACHE_SHARE_CUDA = 0.8
_MADV_PAGEOUT = 21  # of Linux, from 5.4 on; a kernel that does not know it refuses, and nothing happens


def free_bytes(device: torch.device, cgroups: Path = CGROUPS) -> int:
    """What is really free: on the host, within the control group's limit too."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes(cgroups)


def card_bytes(device: torch.device) -> int | None:
    """Of a graphics card, in all; None where the device shares the host's memory."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else None


def cache_budget(device: torch.device) -> int:
    """A share of the free memory for keys and values."""
    share = _CACHE_SHARE_CUDA if device.type == "cuda" else _CACHE_SHARE_CPU
    return int(free_bytes(device) * share)


def used_bytes(device: torch.device) -> int:
    """Allocated device memory, or the resident set of this process."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return to the system what loading used and freed; where the C library cannot, nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def page_out(tensor: Tensor) -> None:
    """Lets the system have the tensor's pages until they are read again; a mapped file's cost nothing."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if tensor.device.type == "cpu" and sys.platform == "linux" and last > first:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_PAGEOUT)
