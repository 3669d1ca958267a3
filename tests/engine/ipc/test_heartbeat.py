"""A worker is stuck if it is silent, or if one step takes too long for its tokens; and only then."""

import threading
from pathlib import Path

import msgspec
import zmq

from app.engine.ipc.heartbeat import Beat, Heartbeat, Liveness
from app.engine.ipc.messages import Outbound, Shutdown, Stats, Submit, TokenQuestion, encode
from app.engine.ipc.worker_link import WorkerLink
from app.engine.worker import serve

TIMEOUT_S = 20


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_worker_in_a_long_step_is_not_stuck_before_the_limit_of_its_tokens() -> None:
    clock = Time()
    liveness = Liveness(60, clock)
    clock.now += 500
    liveness.record(Beat(busy_s=500, step_tokens=512))
    assert liveness.failure is None
    liveness.record(Beat(busy_s=573, step_tokens=512))
    assert liveness.failure == "has been computing a step of 512 tokens for 573 s"


def test_silent_worker_is_stuck_however_many_tokens_its_step_has() -> None:
    clock = Time()
    liveness = Liveness(60, clock)
    liveness.record(Beat(busy_s=1, step_tokens=512))
    clock.now += 59
    assert liveness.failure is None
    clock.now += 1
    assert liveness.failure == "has been silent for 60 s"


class BlockedEngine:
    """An engine whose only step lasts until it is released."""

    step_tokens = 7
    is_idle = True

    def __init__(self) -> None:
        self.is_released = threading.Event()

    @property
    def engine(self) -> "BlockedEngine":
        return self

    def stats(self) -> Stats:
        return Stats(0, 0, 0, 0, 0, 0)

    def submit(self, submit: Submit) -> None:
        raise AssertionError("nothing is submitted")

    def ask(self, question: TokenQuestion) -> None:
        raise AssertionError("nothing is asked")

    def cancel(self, request_id: str) -> None:
        raise AssertionError("nothing is cancelled")

    def cancel_all(self) -> None:
        pass

    def trim(self) -> None:
        pass

    def step(self) -> list[Outbound]:
        assert self.is_released.wait(TIMEOUT_S)
        return []


def test_heart_beats_while_a_step_lasts(tmp_path: Path) -> None:
    address, context = f"ipc://{tmp_path}/socket", zmq.Context()
    server = context.socket(zmq.PAIR)
    server.bind(address)
    engine, link = BlockedEngine(), WorkerLink(address)
    beats: list[Beat] = []

    def receive(line: bytes) -> None:
        beats.append(msgspec.json.decode(line, type=Beat))
        if len([beat for beat in beats if beat.busy_s > 0]) == 2:
            server.send(encode(Shutdown()))
            engine.is_released.set()

    serve(engine, link, Heartbeat(engine, receive))
    link.close()
    server.close()
    context.term()
    first, second = [beat for beat in beats if beat.busy_s > 0][:2]
    assert second.busy_s > first.busy_s
    assert second.step_tokens == 7
