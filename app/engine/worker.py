"""Runs the worker process, which serves one model: forked, or `python -m app.engine.worker ADDRESS`.

The first line of its standard input is a WorkerSpec as JSON. The server keeps that input open as a life-line;
the worker exits when it ends. Heavy imports happen inside `run`, so that they are reported as progress.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import msgspec

from app.core.errors import DomainError, ModelLoadFailed
from app.core.machine import name_process
from app.core.telemetry.logging import configure
from app.engine.ipc.heartbeat import Heartbeat
from app.engine.ipc.messages import (
    Cancel,
    CountTokens,
    Detokenize,
    Inbound,
    LoadFailed,
    Outbound,
    Progress,
    Ready,
    Shutdown,
    Stats,
    Submit,
    Tokenize,
    TokenQuestion,
    WorkerSpec,
)
from app.engine.ipc.worker_link import WorkerLink
from app.engine.loading.low_priority import run_at_low_priority

if TYPE_CHECKING:
    from app.engine.startup import ReadyEngine

_LONGEST_MESSAGE = 1_000  # characters
_log = logging.getLogger("app.engine.worker")  # __name__ is __main__ here

_STATS_EVERY_S = 0.5
_TRIM_EVERY_S = 20.0  # while requests keep coming


def run(address: str) -> int:
    """Serves one model over the socket at `address` until it is asked to stop. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the server ends its workers
    name_process("llm-worker")
    life_line = sys.stdin.fileno()
    with open(life_line, "rb", closefd=False) as stream:
        line = stream.readline()
    if not line.endswith(b"\n"):  # the load was cancelled, or the server has ended
        return 0
    spec = msgspec.json.decode(line, type=WorkerSpec)
    configure(spec.log_level, spec.log_format)
    threading.Thread(target=_end_with, args=(life_line,), name="life-line", daemon=True).start()
    link = WorkerLink(address)
    try:
        return _work(spec, link)
    finally:
        link.close()


def _end_with(life_line: int) -> None:
    """Exits at once when the server is gone, whatever the main thread is doing.

    Reads the bare descriptor: the interpreter cannot exit while a thread holds a buffered reader's lock.
    """
    with contextlib.suppress(OSError):  # a reset: the server died before it had read all heartbeats
        while os.read(life_line, 4096):
            pass
    os._exit(0)


def _work(spec: WorkerSpec, link: WorkerLink) -> int:
    try:
        ready = _start(spec, link)
    except DomainError as error:
        message = _shortened(error.message)
        _log.warning("loading %s failed: %s", spec.model_name, message)
        link.send(LoadFailed(error.code, message, error.hint, error.retry_after))
        return 1
    except Exception as error:  # the process's root
        _log.exception("loading %s failed", spec.model_name)
        link.send(LoadFailed(ModelLoadFailed.code, _shortened(f"{type(error).__name__}: {error}")))
        return 1
    link.send(Ready(ready.info))
    try:
        serve(ready, link, Heartbeat(ready.engine, partial(os.write, sys.stdin.fileno())))
    finally:
        ready.close()
    return 0


def _shortened(message: str) -> str:
    """Returns the message without the middle of a long one: libraries quote the model's files in it."""
    if len(message) <= _LONGEST_MESSAGE:
        return message
    half = _LONGEST_MESSAGE // 2
    return f"{message[:half]} ... {message[-half:]}"


def _start(spec: WorkerSpec, link: WorkerLink) -> "ReadyEngine":
    started = time.monotonic()
    link.send(Progress("import", 0.0))
    startup = run_at_low_priority(partial(import_module, "app.engine.startup"), spec.low_priority)
    ready: ReadyEngine = startup.build_engine(spec, link.send, started)
    startup.bound_growth(ready)
    return ready


class ServableEngine(Protocol):
    """The part of EngineCore that serving needs."""

    @property
    def is_idle(self) -> bool: ...

    @property
    def must_be_replaced(self) -> bool: ...

    @property
    def step_tokens(self) -> int: ...

    def submit(self, submit: Submit) -> None: ...

    def ask(self, question: TokenQuestion) -> None: ...

    def cancel(self, request_id: str) -> None: ...

    def cancel_all(self) -> None: ...

    def step(self) -> list[Outbound]: ...


class ServableModel(Protocol):
    """The part of ReadyEngine that serving needs."""

    @property
    def engine(self) -> ServableEngine: ...

    def stats(self) -> Stats: ...

    def trim(self) -> None: ...


class Trimmer:
    """Trims a model's memory when the engine becomes idle, and at intervals while it works."""

    def __init__(self, model: ServableModel, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._due_at: float | None = None  # when to trim next; None: no step since the last trim

    def after_step(self, is_at_rest: bool) -> None:
        """Call this after each step. `is_at_rest` means that no work is left and no message has arrived."""
        if not is_at_rest and self._due_at is None:
            self._due_at = self._clock() + _TRIM_EVERY_S
        if self._due_at is not None and (is_at_rest or self._clock() >= self._due_at):
            self._model.trim()
            self._due_at = None


def serve(model: ServableModel, link: WorkerLink, heartbeat: Heartbeat) -> None:
    """Handles messages and computes steps until Shutdown arrives, or the engine cannot go on for long."""
    engine, trimmer = model.engine, Trimmer(model)
    stats_due = time.monotonic()
    heartbeat.start()
    try:
        while True:
            heartbeat.rest()
            is_idle = engine.is_idle
            messages = link.receive(_STATS_EVERY_S if is_idle else 0)
            heartbeat.work()
            is_shut_down = _handle(messages, engine)
            for message in engine.step():
                link.send(message)
            if is_shut_down:
                return
            if engine.must_be_replaced:
                _log.error("this worker ends, because calls of the model's tokenizer do not return")
                return
            trimmer.after_step(is_at_rest=is_idle and not messages)
            if time.monotonic() >= stats_due:
                link.send(model.stats())
                stats_due = time.monotonic() + _STATS_EVERY_S
    finally:
        heartbeat.stop()


def _handle(messages: list[Inbound], engine: ServableEngine) -> bool:
    """Passes messages to the engine, up to Shutdown. Returns whether Shutdown has arrived."""
    for message in messages:
        match message:
            case Submit():
                engine.submit(message)
            case Tokenize() | Detokenize() | CountTokens():
                engine.ask(message)
            case Cancel():
                engine.cancel(message.request_id)
            case Shutdown():
                engine.cancel_all()
                return True
    return False


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
