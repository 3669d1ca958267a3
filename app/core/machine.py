"""Measures the free memory of this machine, and names processes. It does not import torch."""

import ctypes
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types

CGROUPS = Path("/sys/fs/cgroup")
_PR_SET_NAME = 15  # of prctl(2)


def name_process(name: str) -> None:
    """Sets the name that `ps` and `top` show, at most 15 characters. It does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def available_bytes(cgroups: Path = CGROUPS) -> int:
    """Returns the bytes available on the host and within the limits of this process's control groups."""
    return min([int(psutil.virtual_memory().available), *_cgroup_free(cgroups)])


def _cgroup_free(root: Path) -> list[int]:
    """Returns the free bytes of the control group, version 2 or 1; an empty list if it has no limit."""
    versions = (
        (root, "memory.max", "memory.current", "inactive_file"),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    free = []
    for folder, limit_name, used_name, cached_name in versions:
        limit, used = _number(folder / limit_name), _number(folder / used_name)
        if limit is not None and used is not None:
            # Cached files, such as weights, count as used, but the kernel drops them when memory is needed.
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
