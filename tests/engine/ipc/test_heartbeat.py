"""A worker is stuck if it is silent, or if one step takes too long for its tokens; and only then."""

import threading
from pathlib import Path

import msgspec
import pytest
import zmq
from hypothesis import given, strategies as st

from app.engine.ipc.heartbeat import LEAST_STOPPED_LOOKS, Beat, Heartbeat, Liveness, Stopwatch
from app.engine.ipc.messages import Outbound, Shutdown, Stats, Submit, TokenQuestion, encode
from app.engine.ipc.worker_link import WorkerLink
from app.engine.worker import serve
from tests.waiting import LIMIT_S


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


def look_for(liveness: Liveness, clock: Time, seconds: float) -> None:
    for _ in range(round(4 * seconds)):
        clock.now += 0.25
        liveness.look()


def test_silent_worker_is_stuck_however_many_tokens_its_step_has() -> None:
    clock = Time()
    liveness = Liveness(60, clock)
    liveness.look()
    liveness.record(Beat(busy_s=1, step_tokens=512))
    look_for(liveness, clock, 59)
    assert liveness.failure is None
    look_for(liveness, clock, 1)
    assert liveness.failure == "has been silent for 60 s"


def test_time_for_loading_the_model_is_no_silence() -> None:
    clock = Time()
    liveness = Liveness(2, clock)
    clock.now += 30
    look_for(liveness, clock, 2)
    assert liveness.failure is None
    look_for(liveness, clock, 0.25)
    assert liveness.failure == "has been silent for 2 s"


def test_worker_that_was_paused_together_with_its_server_is_not_stuck() -> None:
    """As by Ctrl-Z and fg, a paused container, or a machine that slept."""
    clock = Time()
    liveness = Liveness(60, clock)
    look_for(liveness, clock, 30)
    clock.now += 3600
    look_for(liveness, clock, 20)
    assert liveness.failure is None
    liveness.record(Beat(0.0, 0))
    look_for(liveness, clock, 59)
    assert liveness.failure is None


@pytest.mark.parametrize(("limit_s", "after_s"), [(3600, 600), (60, 10), (18, 3), (6, 3)])
def test_worker_that_is_stopped_by_a_signal_counts_as_stuck_long_before_the_limit(
    limit_s: float, after_s: float
) -> None:
    clock = Time()
    liveness = Liveness(limit_s, clock, is_stopped=lambda: True)
    look_for(liveness, clock, after_s)
    assert liveness.failure is None
    look_for(liveness, clock, 2)
    assert liveness.failure == "was stopped by a signal"


def test_worker_of_a_server_that_was_stopped_as_well_is_not_stuck() -> None:
    """As when a whole machine, container or terminal was suspended: one look after it may come too soon."""
    clock = Time()
    stopped = [True]
    liveness = Liveness(3600, clock, is_stopped=lambda: stopped[0])
    liveness.look()
    clock.now += 600
    liveness.look()
    stopped[0] = False
    look_for(liveness, clock, 5)
    assert liveness.failure is None


@given(st.lists(st.booleans(), max_size=60))
def test_worker_that_is_stopped_again_and_again_but_goes_on_is_not_stuck(looks: list[bool]) -> None:
    clock = Time()
    states = iter(looks)
    liveness = Liveness(18, clock, is_stopped=lambda: next(states, False))
    in_a_row = 0
    look_for(liveness, clock, 1.5)
    for is_stopped in looks:
        look_for(liveness, clock, 0.25)
        in_a_row = in_a_row + 1 if is_stopped else 0
        assert (liveness.failure is None) == (in_a_row < LEAST_STOPPED_LOOKS)


class BlockedEngine:
    """An engine whose only step lasts until it is released."""

    step_tokens = 7
    is_idle = True
    must_be_replaced = False

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
        assert self.is_released.wait(LIMIT_S)
        return []


def test_time_in_which_the_worker_itself_was_paused_is_no_part_of_a_step() -> None:
    clock = Time()
    stopwatch = Stopwatch(clock)
    step, next_step = 100.5, 3702.3  # when they began
    busy: list[float] = []
    for since, pause_s in (
        (None, 0.5),
        (step, 0.5),
        (step, 0.5),
        (step, 3600),
        (step, 0.5),
        (next_step, 0.5),
    ):
        clock.now += pause_s
        busy.append(stopwatch.busy_s(since))
    assert busy[:3] == [0, 0.5, 1]
    assert busy[3] < 5 and busy[4] == busy[3] + 0.5
    assert 0 < busy[5] < 0.5


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
