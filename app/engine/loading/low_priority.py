"""Runs a model load at low priority, so that other models keep answering.

The load runs in a thread of its own, because only an administrator can raise a priority again.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_LOWER_BY = 5  # the thread gets a third of the others' share of a busy core, and all of an idle one
_LOWEST = 19


def run_at_low_priority(work: Callable[[], T], low_priority: bool) -> T:
    """Returns the result of `work`. With `low_priority`, other threads on the machine come first.

    This works on Linux only. Elsewhere a priority belongs to the whole process, so it is not changed.
    """
    if not low_priority:
        return work()
    with ThreadPoolExecutor(1, initializer=_lower_priority) as thread:
        return thread.submit(work).result()


def _lower_priority() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _LOWER_BY
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _LOWEST))
