"""The worker's heartbeat: reports that the worker makes progress, and tells the server if it is stuck."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

BEAT_EVERY_S = 0.5
_TOKEN_LIMIT_S = 1.0  # much longer than one token of a step takes on any usable machine


class Beat(msgspec.Struct, frozen=True):
    """One heartbeat, sent as a line of JSON."""

    busy_s: float  # since the engine last waited for messages or began a step; 0 while it waits
    step_tokens: int  # tokens of the newest step


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
        while not self._is_stopped.wait(BEAT_EVERY_S):
            since = self._busy_since
            beat = Beat(0.0 if since is None else time.monotonic() - since, self._engine.step_tokens)
            try:
                self._send(msgspec.json.encode(beat) + b"\n")
            except OSError:
                return


class Liveness:
    """The server's end. A worker is stuck if it is silent, or if one step lasts too long for its tokens."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._last_heard = clock()
        self._beat = Beat(0.0, 0)

    def record(self, beat: Beat) -> None:
        self._last_heard = self._clock()
        self._beat = beat

    @property
    def failure(self) -> str | None:
        """The reason why the worker counts as stuck, such as `has been silent for 60 s`; None if it works."""
        silence_s = self._clock() - self._last_heard
        if silence_s >= self._limit_s:
            return f"has been silent for {silence_s:.0f} s"
        tokens, busy_s = self._beat.step_tokens, self._beat.busy_s
        if busy_s >= self._limit_s + tokens * _TOKEN_LIMIT_S:
            return f"has been computing a step of {tokens} tokens for {busy_s:.0f} s"
        return None
