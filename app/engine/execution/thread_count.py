"""Adapts the number of torch's threads to the cores that other programs leave free.

In each product all threads wait for the last one, and spin meanwhile. A thread whose core is taken therefore
slows down all of them, several times.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from app.core.machine import has_free_cores
from app.engine.execution.module_hooks import hooked

_INTERVAL_S = 0.25  # of steps, after which the number may change
_PAUSE_S = 0.1  # between two steps, after which what came before no longer counts
_MOST_DELAY = 0.35  # of the steps' time, which the threads together may wait for a core; a client takes 0.15
_FIRST_PATIENCE_S = 2.0  # without delays, after which one more thread is tried
_MOST_PATIENCE_S = 30.0
_NS = 1e9
_TASKS = Path("/proc/self/task")


class ThreadCount:
    """Call `before_step` and `after_step` around each step, in the thread that computes them.

    `set_threads` receives each new number, from 1 to `most`; `delay_s` returns for how long the process's
    threads have waited for a core so far. Delays count only while step follows step: those of a long pause
    say nothing about the steps after it. `has_cores` returns whether so many threads would find free cores
    at this moment.
    """

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], object],
        delay_s: Callable[[], float],
        has_cores: Callable[[int], bool],
    ) -> None:
        self._most = most
        self._set_threads = set_threads
        self._delay_s = delay_s
        self._has_cores = has_cores
        self._patience_s = _FIRST_PATIENCE_S
        self._delayed_s = delay_s()
        self._steps_s = 0.0  # since the delay was last read
        self._quiet_since: float | None = None  # when a delay was last found or the number last changed
        self._ended_at: float | None = None  # of the last step
        self._is_trying = False  # whether the newest thread has not proved itself yet
        self._is_by_free_cores = False  # whether free cores were the reason for the last change
        self._was_misled = False  # whether that was wrong, and no more threads have proved themselves since
        self.threads = most

    def before_step(self, now: float) -> None:
        """Use all threads again for the first step after a pause, if other programs have ended meanwhile."""
        if self._is_after_pause(now):
            self._grow_if_free(now)

    def after_step(self, began_at: float, ended_at: float) -> None:
        """Change the number of threads, if the delays of the last steps suggest it. Times are in seconds."""
        if self._is_after_pause(began_at):
            self._begin(ended_at)
        else:
            self._steps_s += ended_at - began_at
        self._ended_at = ended_at
        if self._steps_s >= _INTERVAL_S:
            self._compare(ended_at)

    def _is_after_pause(self, now: float) -> bool:
        return self._ended_at is None or now - self._ended_at > _PAUSE_S

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
        elif not self._grow_if_free(now):
            self._grow_if_quiet(now)

    def _shrink(self, now: float) -> None:
        if self._is_trying:
            self._patience_s = min(2 * self._patience_s, _MOST_PATIENCE_S)
            self._was_misled = self._was_misled or self._is_by_free_cores
        self._change(max(1, self.threads - 1), now, is_trying=False)

    def _grow_if_free(self, now: float) -> bool:
        """Returns whether it has grown. No patience is needed, unless free cores have misled it before."""
        if self.threads == self._most or self._was_misled or not self._has_cores(self._most):
            return False
        self._change(self._most, now, is_trying=True)
        self._is_by_free_cores = True
        return True

    def _grow_if_quiet(self, now: float) -> None:
        if self._quiet_since is None:
            self._quiet_since = now
        if now - self._quiet_since < self._patience_s:
            return
        if self._is_trying or self.threads == self._most:
            self._patience_s, self._was_misled = _FIRST_PATIENCE_S, False
        self._change(min(self.threads + 1, self._most), now, is_trying=self.threads < self._most)

    def _change(self, threads: int, now: float, *, is_trying: bool) -> None:
        self._quiet_since, self._is_trying, self._is_by_free_cores = now, is_trying, False
        if threads != self.threads:
            self.threads = threads
            self._set_threads(threads)


def adaptive_thread_count() -> ThreadCount | None:
    """Returns a count that starts at torch's; None if that is 1, or the system does not report delays."""
    most = torch.get_num_threads()
    if most == 1 or _delay_s() is None:
        return None
    return ThreadCount(most, torch.set_num_threads, lambda: _delay_s() or 0.0, has_free_cores)


@contextmanager
def adapting_threads(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Adapts the number of threads between the passes of the layers. Afterwards it is as it was before."""
    most, count = torch.get_num_threads(), adaptive_thread_count()
    if count is None:
        yield
        return
    try:
        with layers_as_steps(layers, count):
            yield
    finally:
        torch.set_num_threads(most)


@contextmanager
def layers_as_steps(
    layers: Iterable[nn.Module], count: ThreadCount, clock: Callable[[], float] = time.monotonic
) -> Iterator[None]:
    """Makes each pass of a layer a step for `count`."""
    began_at = clock()

    def begin(_: nn.Module) -> None:
        nonlocal began_at
        began_at = clock()
        count.before_step(began_at)

    def end(_: nn.Module) -> None:
        count.after_step(began_at, clock())

    with hooked(list(layers), begin, end):
        yield


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
