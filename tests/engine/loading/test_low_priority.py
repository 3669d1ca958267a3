"""A load runs at low priority; the serving after it does not."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.engine.loading.low_priority import run_at_low_priority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def in_another_thread() -> int:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(niceness).result()


def test_low_priority_applies_to_the_work_and_its_threads_alone() -> None:
    before = niceness()
    lowered = min(before + 5, 19)  # the tests may run at the lowest priority themselves
    assert run_at_low_priority(niceness, True) == lowered
    assert run_at_low_priority(in_another_thread, True) == lowered
    assert run_at_low_priority(niceness, False) == before
    assert niceness() == in_another_thread() == before


def test_low_priority_work_may_raise() -> None:
    with pytest.raises(ZeroDivisionError):
        run_at_low_priority(lambda: 1 // 0, True)


def test_low_priority_has_a_lowest_value() -> None:
    def niced() -> tuple[int, int]:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 16)
        return niceness(), run_at_low_priority(niceness, True)

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(niced).result() == (16, 19)
