"""The number of threads follows the cores that other programs leave free."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from app.engine.execution.thread_count import ThreadCount, adapting_threads, layers_as_steps

STEP_S = 0.05


@dataclass
class Machine:
    """A machine on which more threads than `free` cores wait for a core for as long as they run.

    `seems_free`: whether other programs rest whenever it is asked which cores are free.
    """

    free: int
    seems_free: bool = False
    now: float = 0.0
    delayed_s: float = 0.0
    changes: list[int] = field(default_factory=list)

    def delay_s(self) -> float:
        return self.delayed_s

    def has_cores(self, threads: int) -> bool:
        return self.seems_free or threads <= self.free

    def run(self, count: ThreadCount, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.delayed_s += max(0, count.threads - self.free) * STEP_S * 0.5
            self.step(count, STEP_S)

    def step(self, count: ThreadCount, seconds: float) -> None:
        began_at, self.now = self.now, self.now + seconds
        count.before_step(began_at)
        count.after_step(began_at, self.now)

    def pause(self, seconds: float) -> None:
        """Lets other programs have all cores while no step runs."""
        self.now += seconds
        self.delayed_s += seconds


def counting(machine: Machine, most: int) -> ThreadCount:
    return ThreadCount(most, machine.changes.append, machine.delay_s, machine.has_cores)


def test_thread_count_stays_while_all_cores_are_free() -> None:
    machine = Machine(free=4)
    machine.run(counting(machine, 4), seconds=60)
    assert machine.changes == []


def test_thread_count_falls_to_the_free_cores_and_grows_when_they_are_free_again() -> None:
    machine = Machine(free=2)
    count = counting(machine, 4)
    machine.run(count, seconds=1)
    assert machine.changes == [3, 2]
    machine.free = 4
    machine.run(count, seconds=0.5)
    assert machine.changes == [3, 2, 4]


@pytest.mark.parametrize("seems_free", [False, True])
def test_more_threads_are_tried_ever_less_often_while_cores_stay_taken(seems_free: bool) -> None:
    machine = Machine(free=1, seems_free=seems_free)
    count = counting(machine, 2)
    machine.run(count, seconds=120)
    assert machine.changes[:3] == [1, 2, 1]
    assert 5 <= len(machine.changes) <= 20
    machine.run(count, seconds=120)
    assert len(machine.changes) <= 30


def test_delays_between_replies_do_not_count() -> None:
    machine = Machine(free=2)
    count = counting(machine, 2)
    for _ in range(10):
        machine.run(count, seconds=1)
        machine.pause(seconds=5)
    assert machine.changes == []


def test_first_step_after_a_pause_has_all_threads_if_cores_have_become_free() -> None:
    machine = Machine(free=1)
    count = counting(machine, 4)
    machine.run(count, seconds=1)
    assert machine.changes == [3, 2, 1]
    machine.free = 4
    machine.pause(seconds=0.2)
    count.before_step(machine.now)
    assert count.threads == 4


def test_failed_trials_do_not_delay_what_free_cores_allow() -> None:
    machine = Machine(free=1)
    count = counting(machine, 2)
    machine.run(count, seconds=120)
    assert count.threads == 1
    machine.free = 2
    machine.run(count, seconds=0.5)
    assert count.threads == 2


def test_free_cores_are_believed_again_once_more_threads_have_proved_themselves() -> None:
    machine = Machine(free=1, seems_free=True)
    count = counting(machine, 2)
    machine.run(count, seconds=5)
    machine.free, machine.seems_free = 2, False
    machine.run(count, seconds=60)
    assert count.threads == 2
    machine.free = 1
    machine.run(count, seconds=0.5)
    assert count.threads == 1
    machine.free = 2
    machine.run(count, seconds=0.5)
    assert count.threads == 2


def test_thread_count_never_falls_below_one() -> None:
    machine = Machine(free=0)
    count = counting(machine, 2)
    machine.run(count, seconds=20)
    assert machine.changes == [1]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 2)), max_size=200), st.integers(2, 16))
def test_thread_count_stays_in_its_bounds(steps: list[tuple[float, float]], most: int) -> None:
    machine = Machine(free=most)
    count = counting(machine, most)
    for step_s, delay_s in steps:
        machine.delayed_s += delay_s
        machine.step(count, step_s)
        assert 1 <= count.threads <= most
    assert machine.changes[-1:] in ([], [count.threads])


class Layer(nn.Module):
    """Takes a step's time on the machine."""

    def __init__(self, machine: Machine, count: ThreadCount) -> None:
        super().__init__()
        self._machine, self._count = machine, count

    def forward(self, rows: Tensor) -> Tensor:
        self._machine.now += STEP_S
        self._machine.delayed_s += max(0, self._count.threads - self._machine.free) * STEP_S * 0.5
        return rows


def test_thread_count_follows_the_layers_of_a_long_pass() -> None:
    machine = Machine(free=2)
    count = counting(machine, 4)
    layers = nn.Sequential(*(Layer(machine, count) for _ in range(40)))
    with layers_as_steps(layers, count, clock=lambda: machine.now):
        layers(torch.zeros(1))
    assert machine.changes[:2] == [3, 2]
    del machine.changes[:]
    machine.free = 1
    layers(torch.zeros(1))
    assert machine.changes == []


def test_thread_count_is_as_before_after_the_layers() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), adapting_threads([nn.Identity()]):
        torch.set_num_threads(1)
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
