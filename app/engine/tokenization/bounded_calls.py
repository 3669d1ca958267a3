"""Bounds the time of calls of a model's tokenizer, whose patterns and rules are those of a model's author.

A thread that is inside the tokenizers library cannot be stopped. The caller stops waiting for it, and the
process has to end when it can.
"""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from app.core.errors import InvalidRequest

T = TypeVar("T")
CALL_LIMIT_S = 10.0  # for a short text; real tokenizers take less than a millisecond
_CHARACTERS_PER_S = 100_000  # a tenth of what real tokenizers read on a slow machine
_LOOK_EVERY_S = 0.25


class BoundedCalls:
    """Runs each call in a thread of its own. Any thread may use it."""

    def __init__(self, limit_s: float = CALL_LIMIT_S) -> None:
        """`limit_s` is the limit for a short text; a long one has more time."""
        self._limit_s = limit_s
        self._lost: list[threading.Thread] = []
        self._changing = threading.Lock()  # of the list

    @property
    def lost(self) -> int:
        """How many calls go on though nobody waits for them any more."""
        if not self._lost:  # as nearly always: a step loop asks this after each step
            return 0
        with self._changing:
            self._lost = [thread for thread in self._lost if thread.is_alive()]
            return len(self._lost)

    def call(self, work: Callable[[], T], characters: int) -> T:
        """Returns the result of `work`, which reads a text of so many characters.

        Raises InvalidRequest if it takes too long, or what it raises.
        """
        future: Future[T] = Future()
        thread = threading.Thread(target=_run, args=(work, future), name="tokenizer", daemon=True)
        thread.start()
        if not _has_ended(thread, self.limit_s(characters)):
            with self._changing:
                self._lost.append(thread)
            raise InvalidRequest(
                "the model's tokenizer takes too long for this text",
                hint="Change the text, or use another model.",
            )
        return future.result()

    def limit_s(self, characters: int) -> float:
        """Returns how long a call for a text of so many characters may take."""
        return self._limit_s + characters / _CHARACTERS_PER_S


def _has_ended(thread: threading.Thread, limit_s: float) -> bool:
    """Waits for the thread. A pause of the whole process counts as one look, however long it was."""
    for _ in range(math.ceil(limit_s / _LOOK_EVERY_S)):
        thread.join(_LOOK_EVERY_S)
        if not thread.is_alive():
            return True
    return False


def _run(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # the caller has it; a panic of the library is not an Exception
        future.set_exception(error)
