"""Owns how a load makes way for whoever is being answered meanwhile: it runs in a thread of low priority.

In a thread, because a priority that was lowered can be raised again by nobody but an administrator.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_LOWER_BY = 5  # a third of what others get of a core that they want whole; all of one that nobody wants
_LOWEST = 19


def run_at_low_priority(work: Callable[[], T], low_priority: bool) -> T:
    """What `work` gives; where it makes way, it and the threads that it starts come after everyone else.

    On Linux: elsewhere a priority is the whole process's, and nothing is changed.
    """
    if not low_priority:
        return work()
    with ThreadPoolExecutor(1, initializer=_step_back) as thread:
        return thread.submit(work).result()


def _step_back() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _LOWER_BY
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, _LOWEST))
