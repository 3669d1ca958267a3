"""Describes the machine, and measures its memory bandwidth and the memory of processes."""

import contextlib
import os
import platform
import threading
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil  # type: ignore[import-untyped]  # ships no types
import torch

from app import __version__

_READ_BYTES = 2**30
_LOOK_EVERY_S = 0.02
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_PACKAGES = ("torch", "transformers", "tokenizers", "uvicorn", "fastapi")


def describe() -> dict[str, object]:
    flags = set(_cpu_field("flags").split())
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_field("model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "features": {feature: feature in flags for feature in _FEATURES},
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {"app": __version__} | {package: version(package) for package in _PACKAGES},
    }


def bandwidth(repetitions: int) -> float:
    """Memory bandwidth in bytes per second, from summing 1 GiB with all threads; the best of several runs."""
    numbers = torch.ones(_READ_BYTES // 4)
    return max(_READ_BYTES / _sum_s(numbers) for _ in range(repetitions))


class PeakMemory:
    """A context manager that records the peak private memory of the processes started within it, in bytes.

    Mapped files do not count, because the system can free their pages at any time.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._children = MemoryOfChildren()
        self._is_over = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._watch.join(30)

    def _look(self) -> None:
        while not self._is_over.wait(_LOOK_EVERY_S):
            self.bytes = max(self.bytes, self._children.own_bytes())


class MemoryOfChildren:
    """The memory of the processes that are started after it is made, in bytes."""

    def __init__(self) -> None:
        self._others = {child.pid for child in psutil.Process().children(recursive=True)}

    def own_bytes(self) -> int:
        """Returns their memory that maps no files."""
        return sum(_own_bytes(child) for child in self._children())

    def mapped_bytes(self) -> int:
        """Returns their share of the files that they map, as far as these are in memory."""
        return sum(_smaps_bytes(child, "Pss_File") or 0 for child in self._children())

    def _children(self) -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        return [child for child in children if child.pid not in self._others]


def _own_bytes(process: psutil.Process) -> int:
    """The process's share of memory that maps no files, or its resident memory if that is unknown."""
    own_bytes = _smaps_bytes(process, "Pss_Anon")
    if own_bytes is None:
        with contextlib.suppress(psutil.Error):
            return int(process.memory_info().rss)
    return own_bytes or 0


def _smaps_bytes(process: psutil.Process, name: str) -> int | None:
    """A sum over the process's mappings; None if the system does not report it."""
    try:
        status = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines()[1:])
    return int(fields.get(name, "0 kB").split()[0]) * 1024


def _sum_s(numbers: torch.Tensor) -> float:
    began = time.perf_counter()
    numbers.sum().item()
    return time.perf_counter() - began


def _cpu_field(name: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
