"""Measures how much memory this process uses and may use, and returns memory to the system. In bytes."""

import contextlib
import ctypes
import errno
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import torch

from app.core.machine import available_bytes

_CACHE_SHARE_CPU = 0.4  # of the free memory; other programs and activations need the rest
_CACHE_SHARE_CUDA = 0.8
_MOST_CACHE_BYTES = 8_000_000_000  # on the host
_LEAST_CACHE_BYTES = 1_000_000_000  # which even a small model may use there
_DATA_FIELD = 5  # of statm: pages of private writable memory
_EXHAUSTED = (  # parts of the messages of torch, safetensors and Python
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "can't start new thread",
)
_MAPPING = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) \S+ \S+ \S+ \d+ *(?P<name>.*)")
_NONE_ANONYMOUS, _NONE_IN_SWAP = ["Anonymous:", "0", "kB"], ["Swap:", "0", "kB"]


def free_bytes(device: torch.device) -> int:
    """Returns the free memory; on the host, also within the limits of the control groups."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available_bytes()


def card_bytes(device: torch.device) -> int | None:
    """Returns the total memory of a graphics card; None if the device uses the host's memory."""
    return int(torch.cuda.mem_get_info(device)[1]) if device.type == "cuda" else None


def cache_budget(
    device: torch.device, window_bytes: int, requests: int, weight_bytes: int, free: int | None = None
) -> int:
    """Returns the bytes that keys and values may take if no setting says so.

    They are a share of the free memory, but no more than so many requests with a full context window need.
    On the host they are also at most what the weights take, or 1 GB if that is more, and at most 8 GB; one
    window is always allowed. `free` is measured if not given.
    """
    free = free_bytes(device) if free is None else free
    if device.type == "cuda":
        return min(int(free * _CACHE_SHARE_CUDA), window_bytes * requests)
    moderate = min(_MOST_CACHE_BYTES, max(_LEAST_CACHE_BYTES, weight_bytes))
    return min(int(free * _CACHE_SHARE_CPU), window_bytes * requests, max(moderate, window_bytes))


class MemoryUse:
    """How much memory this process uses on `device`. Create it after the model is loaded.

    On the host, a page that n processes share, as forked workers do, counts as 1/n of a page. The kernel
    takes milliseconds to add that up, so this is done once; later figures follow the resident set from there.
    """

    def __init__(self, device: torch.device, rollup: Path = Path("/proc/self/smaps_rollup")) -> None:
        self._device = device
        self._elsewhere_bytes = 0 if device.type == "cuda" else _bytes_counted_elsewhere(rollup)

    @property
    def used_bytes(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        return int(psutil.Process().memory_info().rss) - self._elsewhere_bytes


def _bytes_counted_elsewhere(rollup: Path) -> int:
    """Returns how much larger the resident set is than this process's proportional share of it."""
    try:
        fields = [line.split() for line in rollup.read_text().splitlines()[1:]]
    except OSError:  # not Linux
        return 0
    kilobytes = {field[0]: int(field[1]) for field in fields}
    return 1024 * (kilobytes["Rss:"] - kilobytes["Pss:"])


def bound_growth(more_bytes: int) -> None:
    """Limits how much memory this process may add from now on, to `more_bytes`. Only Linux can.

    Beyond it, an allocation fails. In Python and torch that is an error for which `is_exhaustion` is true; a
    library in Rust, such as tokenizers, ends the process. Address space that is only reserved does not count.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # Unix only

        pages = int(Path("/proc/self/statm").read_text().split()[_DATA_FIELD])
        limit = pages * mmap.PAGESIZE + more_bytes
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def return_freed() -> None:
    """Returns freed memory to the system, if the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def is_exhaustion(error: BaseException) -> bool:
    """Returns whether the error means that memory has run out, on the host or on a graphics card.

    A thread that cannot start is such an error, too: there was no room for its stack.
    """
    match error:
        case MemoryError() | torch.OutOfMemoryError():
            return True
        case OSError():
            return error.errno == errno.ENOMEM
        case Exception():
            return any(text in str(error) for text in _EXHAUSTED)
    return False


def unmap_files(paths: Iterable[Path]) -> None:
    """Gives back the pages of these files that are mapped here and unchanged.

    They stay in the system's cache of files, so that a later load finds them there, until other programs need
    the memory. Reading them here maps them again.
    """
    names = {os.path.realpath(path) for path in paths}
    with contextlib.suppress(OSError):  # not Linux
        for start, end, name in unchanged_mappings(Path("/proc/self/smaps").read_text(errors="replace")):
            if name in names:
                ctypes.CDLL(None).madvise(
                    ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED
                )


def unchanged_mappings(smaps: str) -> Iterator[tuple[int, int, str]]:
    """Yields the addresses and the file of each mapping in which the process has changed no page.

    `smaps` is the kernel's record. Pages that were changed are anonymous, in memory or in swap space.
    """
    mapping, is_changed = (0, 0, ""), True
    for line in smaps.splitlines():
        if (header := _MAPPING.match(line)) is not None:
            mapping, is_changed = (int(header["start"], 16), int(header["end"], 16), header["name"]), True
        elif line.startswith("Anonymous:"):
            is_changed = line.split() != _NONE_ANONYMOUS
        elif line.split() == _NONE_IN_SWAP and not is_changed:  # comes after the line above
            yield mapping
