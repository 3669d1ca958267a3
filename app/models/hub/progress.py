"""Measures the progress of a download: its bytes, its rate and the remaining time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

_WINDOW_S = 5.0  # the rate is measured over this time
_EVERY_S = 0.1  # between two reports of one download


@dataclass(frozen=True, slots=True)
class FileTransfer:
    name: str
    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """The bytes of several files. The rate is None until it can be measured."""

    files: tuple[FileTransfer, ...]
    bytes_per_s: float | None = None

    @property
    def done_bytes(self) -> int:
        return sum(file.done_bytes for file in self.files)

    @property
    def total_bytes(self) -> int:
        return sum(file.total_bytes for file in self.files)

    @property
    def fraction(self) -> float:
        return self.done_bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def seconds_left(self) -> float | None:
        return (self.total_bytes - self.done_bytes) / self.bytes_per_s if self.bytes_per_s else None


class LoadReporter(Protocol):
    """Receives the progress of a load. Any thread may call it."""

    def __call__(self, stage: str, fraction: float, transfer: Transfer | None = None) -> None: ...


class Meter:
    """Counts the bytes of several files that are downloaded in parallel. Any thread may call it."""

    def __init__(
        self, report: LoadReporter, sizes: Mapping[str, int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        self._sizes = dict(sizes)
        self._done = dict.fromkeys(sizes, 0)
        self._arrived: deque[tuple[float, int]] = deque([(clock(), 0)])
        self._received = 0
        self._reported_at: float | None = None

    def set_done(self, name: str, done_bytes: int) -> None:
        """Sets how many bytes of a file are on the disk."""
        with self._lock:
            self._done[name] = done_bytes
            self._update()

    def add(self, name: str, count: int) -> None:
        """Counts bytes that have just arrived."""
        with self._lock:
            self._done[name] += count
            self._received += count
            self._update()

    def _update(self) -> None:
        now = self._clock()
        is_complete = self._done == self._sizes
        if self._reported_at is not None and now - self._reported_at < _EVERY_S and not is_complete:
            return
        self._reported_at = now
        transfer = Transfer(self._files(), self._rate(now))
        self._report("download", min(1.0, transfer.fraction), transfer)

    def _files(self) -> tuple[FileTransfer, ...]:
        return tuple(FileTransfer(name, self._done[name], size) for name, size in self._sizes.items())

    def _rate(self, now: float) -> float | None:
        self._arrived.append((now, self._received))
        while now - self._arrived[0][0] > _WINDOW_S and len(self._arrived) > 2:
            self._arrived.popleft()
        began, received = self._arrived[0]
        return (self._received - received) / (now - began) if now > began and self._received else None
