"""Owns what is said of the machine: its description, and how fast it reads memory."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from app import __version__

_READ_BYTES = 2**30
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
    """Bytes per second of summing 1 GiB with every thread: the best of several, since it is a limit."""
    numbers = torch.ones(_READ_BYTES // 4)
    return max(_READ_BYTES / _sum_s(numbers) for _ in range(repetitions))


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident; where the system does not tell, what it has now."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return int(psutil.Process(pid).memory_info().rss)


def _sum_s(numbers: torch.Tensor) -> float:
    began = time.perf_counter()
    numbers.sum().item()
    return time.perf_counter() - began


def _cpu_field(name: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
