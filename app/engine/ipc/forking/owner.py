"""Ends a process at once when its owner has gone, whatever it is doing."""

import contextlib
import fcntl
import os
import select
import signal
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ends_with(owner: int, clean_up: Callable[[], None]) -> Iterator[None]:
    """Ends this process, after `clean_up`, if the pipe `owner` is closed in the block.

    For the main thread, on Linux. The kernel reports the end of the pipe by a signal: a thread that waits for
    it would make forks unsafe.
    """

    def end_without_owner(*_: object) -> None:
        if select.select([owner], [], [], 0)[0]:
            clean_up()
            os._exit(0)

    flags = fcntl.fcntl(owner, fcntl.F_GETFL)
    before = signal.signal(signal.SIGIO, end_without_owner)
    fcntl.fcntl(owner, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(owner, fcntl.F_SETFL, flags | os.O_ASYNC)
    end_without_owner()  # the owner may have gone before
    try:
        yield
    finally:
        fcntl.fcntl(owner, fcntl.F_SETFL, flags)
        signal.signal(signal.SIGIO, before)
