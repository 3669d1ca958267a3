"""Runs the worker process, which serves one model: forked, or `python -m app.engine.worker ADDRESS`.

The first line of its standard input is a WorkerSpec as JSON. It ends when standard input does, which the
server keeps open as a life-line. Heavy imports happen while it runs, so that they are reported as progress.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import zmq

from app.core.errors import DomainError, ModelLoadFailed
from app.core.logging import configure
from app.core.machine import name_process
from app.engine.ipc.messages import (
    Cancel,
    Inbound,
    LoadFailed,
    Outbound,
    Progress,
    Ready,
    Shutdown,
    Submit,
    WorkerSpec,
    decode_inbound,
    encode,
)
from app.engine.loading.low_priority import run_at_low_priority

if TYPE_CHECKING:
    from app.engine.startup import ReadyEngine

_log = logging.getLogger("app.engine.worker")  # __name__ is __main__ here

_STATS_EVERY_S = 0.5
_LINGER_MS = 2000  # how long the last words may take to leave


class Link:
    """The worker's end of the socket pair."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.connect(address)

    def send(self, message: Outbound) -> None:
        self._socket.send(encode(message))

    def receive(self, timeout_s: float) -> Iterator[Inbound]:
        """Everything that has arrived; waits at most `timeout_s` for the first of it."""
        if self._socket.poll(int(timeout_s * 1000)) == 0:
            return
        while True:
            try:
                yield decode_inbound(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def run(address: str) -> int:
    """Serves one model over the socket at `address` until it is asked to stop. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the server ends its workers
    name_process("llm-worker")
    life_line = sys.stdin.fileno()
    with open(life_line, "rb", closefd=False) as stream:
        spec = msgspec.json.decode(stream.readline(), type=WorkerSpec)
    configure(spec.log_level)
    threading.Thread(target=_end_with, args=(life_line,), name="life-line", daemon=True).start()
    link = Link(address)
    try:
        return _work(spec, link)
    finally:
        link.close()


def _end_with(life_line: int) -> None:
    """Leave at once when the server is gone, whatever the main thread is in.

    Reads the bare descriptor: a buffered reader's lock, held by this thread, aborts the interpreter's exit.
    """
    while os.read(life_line, 4096):
        pass
    os._exit(0)


def _work(spec: WorkerSpec, link: Link) -> int:
    try:
        service = _start(spec, link)
    except DomainError as error:
        _log.error("loading %s failed: %s", spec.model_name, error.message)
        link.send(LoadFailed(error.code, error.message, error.hint))
        return 1
    except Exception as error:  # the process's root
        _log.exception("loading %s failed", spec.model_name)
        link.send(LoadFailed(ModelLoadFailed.code, f"{type(error).__name__}: {error}"))
        return 1
    link.send(Ready(service.info))
    serve(service, link)
    return 0


def _start(spec: WorkerSpec, link: Link) -> "ReadyEngine":
    started = time.monotonic()
    link.send(Progress("import", 0.0))
    service = run_at_low_priority(_import, spec.low_priority)
    link.send(Progress("import", 1.0))
    return service.start(spec, link.send, started)


def _import() -> "type[ReadyEngine]":
    from app.engine.startup import ReadyEngine

    return ReadyEngine


class Heartbeat:
    """Stats to the server, as often as it is given the chance but no oftener than is wanted."""

    def __init__(self, service: "ReadyEngine", link: Link) -> None:
        self._service = service
        self._link = link
        self._last: float | None = None

    def beat(self) -> None:
        now = time.monotonic()
        if self._last is None or now - self._last >= _STATS_EVERY_S:
            self._link.send(self._service.stats())
            self._last = now


def serve(service: "ReadyEngine", link: Link) -> None:
    """Until Shutdown: the inbox, one step, the outbox; a sign of life after each message and each step."""
    heart = Heartbeat(service, link)
    while True:
        for message in link.receive(_STATS_EVERY_S if service.engine.is_idle else 0):
            match message:
                case Submit():
                    service.engine.submit(message)
                case Cancel():
                    service.engine.cancel(message.request_id)
                case Shutdown():
                    service.engine.cancel_all()
                    _send_all(link, service.engine.step())
                    return
            heart.beat()
        _send_all(link, service.engine.step())
        heart.beat()


def _send_all(link: Link, messages: list[Outbound]) -> None:
    for message in messages:
        link.send(message)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
