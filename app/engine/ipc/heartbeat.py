"""The worker's heartbeat: reports that the worker makes progress, and tells the server if it is stuck."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

BEAT_EVERY_S = 0.5
LOOK_EVERY_S = 0.25
LEAST_STOPPED_LOOKS = 12  # in a row, before a worker that is stopped counts as stuck
_LEAST_STOPPED_S = LEAST_STOPPED_LOOKS * LOOK_EVERY_S
_STOPPED_SHARE = 1 / 6  # of the limit for silence, after which it does
_SILENCE_S = 3 * BEAT_EVERY_S  # after which it is worth asking the operating system
_LONGEST_GAP_S = 2.0  # between two readings of a clock; for the rest of a longer one, this process was paused
_TOKEN_LIMIT_S = 1.0  # much longer than one token of a step takes on any usable machine


class Beat(msgspec.Struct, frozen=True):
    """One heartbeat, sent as a line of JSON."""

    busy_s: float  # since the engine last waited for messages or began a step; 0 while it waits
    step_tokens: int  # tokens of the newest step


def most_stopped_s(limit_s: float) -> float:
    """Returns for how long a signal may stop a worker whose limit for silence is `limit_s`."""
    return max(_LEAST_STOPPED_S, limit_s * _STOPPED_SHARE)


class Stopwatch:
    """Measures how long the engine has been busy, without the time for which this process was paused.

    It is paused by SIGSTOP, with its container, or when the machine sleeps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_look = clock()
        self._since: float | None = None
        self._busy_s = 0.0

    def busy_s(self, since: float | None) -> float:
        """Returns the seconds since a moment; 0 for none. Call this every half second."""
        gap_s = min(self._clock() - self._last_look, _LONGEST_GAP_S)
        self._last_look = self._clock()
        if since is None:
            self._busy_s = 0.0
        elif since == self._since:
            self._busy_s += gap_s
        else:
            self._busy_s = min(self._last_look - since, gap_s)
        self._since = since
        return self._busy_s


class StepCounter(Protocol):
    @property
    def step_tokens(self) -> int:
        """Tokens of the newest step."""


class Heartbeat:
    """The worker's end. It reports from a thread of its own, so that a long step delays no report."""

    def __init__(self, engine: StepCounter, send: Callable[[bytes], object]) -> None:
        """The thread calls `send`. An OSError from it means that the server is gone."""
        self._engine = engine
        self._send = send
        self._busy_since: float | None = None
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def rest(self) -> None:
        """Call this before the engine waits for messages."""
        self._busy_since = None

    def work(self) -> None:
        """Call this before the engine handles messages and computes a step."""
        self._busy_since = time.monotonic()

    def stop(self) -> None:
        self._is_stopped.set()

    def _run(self) -> None:
        stopwatch = Stopwatch()
        while not self._is_stopped.wait(BEAT_EVERY_S):
            beat = Beat(stopwatch.busy_s(self._busy_since), self._engine.step_tokens)
            try:
                self._send(msgspec.json.encode(beat) + b"\n")
            except OSError:
                return


class Liveness:
    """The server's end. It must `look` every LOOK_EVERY_S seconds.

    A worker is stuck if it is silent, if a step lasts too long for its tokens, or if a signal has stopped it.
    """

    def __init__(
        self,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_stopped` returns whether the worker is kept from running, as by SIGSTOP."""
        self._limit_s = limit_s
        self._clock = clock
        self._is_stopped = is_stopped
        self._most_stopped_looks = round(most_stopped_s(limit_s) / LOOK_EVERY_S)
        self._last_look: float | None = None
        self._silence_s = 0.0
        self._beat = Beat(0.0, 0)
        self._stopped_looks = 0

    def record(self, beat: Beat) -> None:
        self._silence_s = 0.0
        self._beat = beat

    def look(self) -> None:
        """Notes how long the worker has been silent, and whether it is stopped then.

        Time before the first look is not counted, because a worker that loads a model has no heartbeat. Nor
        is time in which this process did not look: it was paused, and the worker perhaps as well, which may
        go on a moment later.
        """
        now = self._clock()
        if self._last_look is not None:
            self._silence_s += min(now - self._last_look, _LONGEST_GAP_S)
        self._last_look = now
        is_silent = self._silence_s >= _SILENCE_S
        self._stopped_looks = self._stopped_looks + 1 if is_silent and self._is_stopped() else 0

    @property
    def failure(self) -> str | None:
        """The reason why the worker counts as stuck, such as `has been silent for 60 s`; None if it works."""
        if self._stopped_looks >= self._most_stopped_looks:
            return "was stopped by a signal"
        if self._silence_s >= self._limit_s:
            return f"has been silent for {self._silence_s:.0f} s"
        tokens, busy_s = self._beat.step_tokens, self._beat.busy_s
        if busy_s >= self._limit_s + tokens * _TOKEN_LIMIT_S:
            return f"has been computing a step of {tokens} tokens for {busy_s:.0f} s"
        return None
