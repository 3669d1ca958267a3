"""Owns what this process may and does use of the machine's memory, in bytes."""

import contextlib
import ctypes
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import torch

from app.core.machine import CGROUPS, available_bytes

_CACHE_SHARE_CPU = 0.4  # of what is free: other programs and activations need the rest
_CACHE_SHARE_CUDA = 0.8


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
