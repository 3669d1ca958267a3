"""Owns the bounds of a chat template: code from a model's author that runs in a sandbox, but may never end.

The sandbox is transformers' own. Here it gets a limit of time, of memory and of length.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30  # beyond what the process has
LENGTH_LIMIT = 50_000_000  # characters
_AGAIN_S = 0.05  # an exception may have been swallowed


class TemplateOutOfBounds(Exception):
    """It takes too long, or too much memory, or makes too long a text."""


@contextmanager
def bounded(time_limit_s: float = TIME_LIMIT_S) -> Iterator[None]:
    """Ends what runs inside with TemplateOutOfBounds. In the main thread of a Unix process: a worker's.

    A timer's signal also ends a loop inside C, such as the power of two large numbers.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    previous = signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s, _AGAIN_S)
    try:
        with _memory_bounded():
            yield
    except (MemoryError, RecursionError, OverflowError) as error:
        raise TemplateOutOfBounds from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextmanager
def _memory_bounded() -> Iterator[None]:
    import resource  # here: Unix only

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _mapped_bytes() + MEMORY_LIMIT_BYTES
    limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mapped_bytes() -> int:
    """Address space in use. Where the system does not tell, more than any process has."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 48


def _give_up(number: int, frame: FrameType | None) -> None:
    raise TemplateOutOfBounds
