"""Measures free memory and usable cores, names processes, and raises their limit of open files."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil  # type: ignore[import-untyped]  # ships no types

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
_LOAD = Path("/proc/loadavg")
_PR_SET_NAME = 15  # of prctl(2)
_MANY_FILES = 65_536


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of files and fields in one version of control groups."""

    controller: str  # in /proc/self/cgroup
    limit: str
    used: str
    cached: str  # in memory.stat


_VERSION_2 = _Names("", "memory.max", "memory.current", "inactive_file")
_VERSION_1 = _Names("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def name_process(name: str) -> None:
    """Sets the name that `ps` and `top` show, at most 15 characters. It does nothing except on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def allow_many_open_files() -> None:
    """Raises this process's limit of open files as far as it may, at most to 65,536.

    Systems set a low limit for programs that use select(2). This one does not, and each connection is a file.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS refuses some values below its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_files_limit() -> int:
    """Returns how many files this process may have open at once, at most 65,536."""
    if resource is None:
        return _MANY_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY_FILES if soft == resource.RLIM_INFINITY else min(int(soft), _MANY_FILES)


def available_bytes(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> int:
    """Returns the bytes available on the host and within the limits of this process's control groups.

    `own_cgroups` lists the groups of the process.
    """
    return min([int(psutil.virtual_memory().available), *_cgroup_free(cgroups, own_cgroups)])


def _cgroup_free(root: Path, own_cgroups: Path) -> Iterator[int]:
    """Yields the free bytes of each control group with a limit, version 2 or 1."""
    for hierarchy, names in (
        (root, _VERSION_2),
        (root / "unified", _VERSION_2),
        (root / "memory", _VERSION_1),
    ):
        for group in _groups(own_cgroups, names.controller):
            folder = hierarchy / group
            limit, used = _number(folder / names.limit), _number(folder / names.used)
            if limit is not None and used is not None:
                # Cached files, such as weights, count as used, but the kernel drops them if necessary.
                used -= _statistic(folder / "memory.stat", names.cached)
                yield max(limit - used, 0)


def usable_cores(cgroups: Path = CGROUPS, own_cgroups: Path = OWN_CGROUPS) -> int:
    """Returns how many cores this process may keep busy, which may be fewer than the machine has.

    Its CPU affinity limits them, and so do the quotas of its control groups. A quota is rounded down, because
    a thread that is halted in the middle of a product halts the others; at least one core is left.
    """
    return max(1, min([_affine_cores(), *_cgroup_cores(cgroups, own_cgroups)]))


def has_free_cores(threads: int, load: Path = _LOAD) -> bool:
    """Returns whether the machine has cores for so many threads of this process beside all that run now.

    The quota of a control group does not count here: the threads of other groups do not run on it.
    """
    try:
        running = int(load.read_text().split()[3].partition("/")[0])  # with the thread that asks
    except (OSError, IndexError, ValueError):  # the system keeps no such record
        return False
    return running - 1 + threads <= _affine_cores()


def _affine_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cgroup_cores(root: Path, own_cgroups: Path) -> Iterator[int]:
    """Yields the cores of each control group with a quota, version 2 or 1."""
    for hierarchy in (root, root / "unified"):
        for group in _groups(own_cgroups, ""):
            yield from _quota(_words(hierarchy / group / "cpu.max"))
    for group in _groups(own_cgroups, "cpu"):
        folder = root / "cpu" / group
        yield from _quota([*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us")])


def _quota(words: list[str]) -> list[int]:
    """Returns the cores of a quota and its period in microseconds; none without a quota (`max` or -1)."""
    match words:
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period):
            return [int(quota) // int(period)]
    return []


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, ValueError):  # no such file
        return []


def _groups(own_cgroups: Path, controller: str) -> Iterator[PurePosixPath]:
    """Yields the process's group and its ancestors, whose limits apply as well, as paths below the root.

    The root itself is always included: a container may see its own group there, while /proc has the host's
    path, which does not exist in the container.
    """
    groups = [PurePosixPath()]
    for line in _lines(own_cgroups):
        _, controllers, path = line.split(":", 2)
        parts = PurePosixPath(path.lstrip("/"))
        if controller in controllers.split(",") and ".." not in parts.parts:
            groups += [parts, *parts.parents]
    return iter(dict.fromkeys(groups))


def _lines(path: Path) -> list[str]:
    """Returns the lines, which have the form `number:controllers:path`."""
    try:
        return [line for line in path.read_text().splitlines() if line.count(":") >= 2]
    except OSError:  # not Linux
        return []


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
