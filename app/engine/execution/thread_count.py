"""Adapts the number of torch's threads to the cores that other programs leave free.

In each product all threads wait for the last one, and spin meanwhile. A thread whose core is taken therefore
slows down all of them, several times.
"""

from collections.abc import Callable
from pathlib import Path

import torch

_INTERVAL_S = 0.25  # of steps, after which the number may change
_PAUSE_S = 0.1  # between two steps, after which what came before no longer counts
_MOST_DELAY = 0.35  # of the steps' time, which the threads together may wait for a core; a client takes 0.15
_FIRST_PATIENCE_S = 2.0  # without delays, after which one more thread is tried
_MOST_PATIENCE_S = 30.0
_NS = 1e9
_TASKS = Path("/proc/self/task")


class ThreadCount:
    """Call `after_step` after each step, in the thread that computes them.

    `set_threads` receives each new number, from 1 to `most`; `delay_s` returns for how long the process's
    threads have waited for a core so far. Delays count only while step follows step: those of a long pause
    say nothing about the steps after it.
    """

    def __init__(self, most: int, set_threads: Callable[[int], object], delay_s: Callable[[], float]) -> None:
        self._most = most
        self._set_threads = set_threads
        self._delay_s = delay_s
        self._patience_s = _FIRST_PATIENCE_S
        self._delayed_s = delay_s()
        self._steps_s = 0.0  # since the delay was last read
        self._quiet_since: float | None = None  # when a delay was last found or the number last changed
        self._ended_at: float | None = None  # of the last step
        self._is_trying = False  # whether the newest thread has not proved itself yet
        self.threads = most

    def after_step(self, began_at: float, ended_at: float) -> None:
        """Change the number of threads, if the delays of the last steps suggest it. Times are in seconds."""
        if self._ended_at is None or began_at - self._ended_at > _PAUSE_S:
            self._begin(ended_at)
        else:
            self._steps_s += ended_at - began_at
        self._ended_at = ended_at
        if self._steps_s >= _INTERVAL_S:
            self._compare(ended_at)

    def _begin(self, now: float) -> None:
        """Begin a row of steps."""
        self._delayed_s, self._steps_s = self._delay_s(), 0.0
        self._grow_if_quiet(now)

    def _compare(self, now: float) -> None:
        before_s, self._delayed_s = self._delayed_s, self._delay_s()
        is_delayed = self._delayed_s - before_s > _MOST_DELAY * self._steps_s
        self._steps_s = 0.0
        if is_delayed:
            self._shrink(now)
        else:
            self._grow_if_quiet(now)

    def _shrink(self, now: float) -> None:
        if self._is_trying:
            self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
        self._change(max(1, self.threads - 1), now, is_trying=False)

    def _grow_if_quiet(self, now: float) -> None:
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < self._patience_s:
            return
        if self._is_trying or self.threads == self._most:
            self._patience_s = _FIRST_PATIENCE_S
        self._change(min(self.threads + 1, self._most), now, is_trying=self.threads < self._most)

    def _change(self, threads: int, now: float, *, is_trying: bool) -> None:
        self._quiet_since, self._is_trying = now, is_trying
        if threads != self.threads:
            self.threads = threads
            self._set_threads(threads)


def adaptive_thread_count() -> ThreadCount | None:
    """Returns a count that starts at torch's; None if that is 1, or the system does not report delays."""
    most = torch.get_num_threads()
    if most == 1 or _delay_s() is None:
        return None
    return ThreadCount(most, torch.set_num_threads, lambda: _delay_s() or 0.0)


def _delay_s() -> float | None:
    """Returns for how long this process's threads have been ready to run without a core; None if unknown."""
    delays = [_delay_ns(task) for task in _TASKS.iterdir()] if _TASKS.is_dir() else []
    known = [delay for delay in delays if delay is not None]
    return sum(known) / _NS if known else None


def _delay_ns(task: Path) -> int | None:
    try:
        return int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError):  # the thread has just ended, or the system keeps no such record
        return None
