"""Owns what this process may and does use of the machine's memory, in bytes."""

import contextlib
import ctypes
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import torch

_CACHE_SHARE_CPU = 0.4  # of what is free: other programs and activations need the rest
_CACHE_SHARE_CUDA = 0.8


def free_bytes(device: torch.device, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """What is really free: on the host, within the control group's limit too."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([int(psutil.virtual_memory().available), *_cgroup_free(cgroups)])


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


def _cgroup_free(root: Path) -> list[int]:
    """Limit less use of the control group, version 2 or 1; nothing where there is no limit."""
    versions = (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    free = []
    for folder, limit_name, used_name, cached_name in versions:
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            # Files read, the weights among them, count as used but make way for whoever needs the room.
            used -= _statistic(folder / "memory.stat", cached_name)
            free.append(max(limit - used, 0))
    return free


def _statistic(path: Path, name: str) -> int:
    try:
        numbers = dict(line.split() for line in path.read_text().splitlines())
        return int(numbers.get(name, 0))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None
