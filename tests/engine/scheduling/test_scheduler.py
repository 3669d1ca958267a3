"""Order, token budget, preemption and cancellation, with a memory that only counts."""

import random

import pytest

from app.engine.scheduling.scheduler import Scheduler
from app.engine.scheduling.sequence import Chunk, TokenSequence


class CountingMemory:
    """A KVMemory with room for a number of ids, and without prefixes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held: dict[TokenSequence, int] = {}

    def attach(self, sequence: TokenSequence) -> bool:
        return self._hold(sequence)

    def extend(self, sequence: TokenSequence) -> bool:
        return self._hold(sequence)

    def chunk_size(self, sequence: TokenSequence, budget: int) -> int:
        return min(sequence.longest_chunk, budget)

    def release(self, sequence: TokenSequence) -> None:
        del self.held[sequence]

    def discard(self, sequence: TokenSequence) -> None:
        del self.held[sequence]
        sequence.rewind()

    def _hold(self, sequence: TokenSequence) -> bool:
        others = sum(self.held.values()) - self.held.get(sequence, 0)
        if others + len(sequence.ids) > self.room:
            return False
        self.held[sequence] = len(sequence.ids)
        return True


def make(name: str, length: int) -> TokenSequence:
    return TokenSequence(name, list(range(length)))


def advance(chunks: list[Chunk]) -> None:
    """Do what a forward pass does: compute, and append the next id if nothing is pending."""
    for chunk in chunks:
        is_last = chunk.is_last
        chunk.sequence.advance(chunk.count)
        if is_last:
            chunk.sequence.accept([0])


def shape(chunks: list[Chunk]) -> list[tuple[str, int]]:
    return [(chunk.sequence.request_id, chunk.count) for chunk in chunks]


def test_plan_puts_decodes_first_and_fills_up_with_prefill() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=10)
    scheduler.add(make("a", 4))
    advance(scheduler.plan())
    scheduler.add(make("b", 14))
    scheduler.add(make("c", 3))
    plans = []
    for _ in range(3):
        plans.append(shape(chunks := scheduler.plan()))
        advance(chunks)
    assert plans == [[("a", 1), ("b", 9)], [("a", 1), ("b", 5), ("c", 3)], [("a", 1), ("b", 1), ("c", 1)]]


def test_plan_holds_prefill_back_only_beside_decodes() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=64)
    scheduler.add(make("a", 40))
    chunks = scheduler.plan(prefill_rows=7)
    assert shape(chunks) == [("a", 40)]
    advance(chunks)
    scheduler.add(make("b", 40))
    assert shape(scheduler.plan(prefill_rows=7)) == [("a", 1), ("b", 7)]


@pytest.mark.parametrize(("prefill_rows", "rows"), [(1, 1), (4, 3), (10, 7), (40, 39), (100, 95)])
def test_plan_cuts_prefill_beside_decodes_to_a_pass_size(prefill_rows: int, rows: int) -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=512)
    scheduler.add(make("a", 40))
    advance(scheduler.plan())
    scheduler.add(make("b", 400))
    assert shape(scheduler.plan(prefill_rows)) == [("a", 1), ("b", rows)]


def test_plan_runs_at_most_max_running_in_order_of_arrival() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=2, step_tokens=100)
    for name in "abc":
        scheduler.add(make(name, 2))
    assert shape(scheduler.plan()) == [("a", 2), ("b", 2)]
    scheduler.finish(scheduler.running[0])
    assert ("c", 2) in shape(scheduler.plan())


def test_plan_prefill_goes_on_when_decodes_fill_the_budget() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=2)
    for name in "ab":
        scheduler.add(make(name, 1))
    advance(scheduler.plan())
    scheduler.add(make("c", 5))
    assert shape(scheduler.plan()) == [("a", 1), ("b", 1), ("c", 1)]


def test_plan_preempts_the_youngest_and_resumes_it() -> None:
    scheduler = Scheduler(CountingMemory(10), max_running=8, step_tokens=100)
    old, young = make("old", 4), make("young", 4)
    scheduler.add(old)
    scheduler.add(young)
    while young in scheduler.running or not scheduler.running:
        advance(scheduler.plan())
    assert list(scheduler.waiting) == [young]
    assert young.computed == 0
    assert scheduler.preemptions == 1
    scheduler.finish(old)
    assert shape(scheduler.plan()) == [("young", len(young.ids))]


def test_plan_lets_a_sequence_wait_for_a_prefix_that_is_being_computed() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=500)
    for name in "ab":
        scheduler.add(make(name, 100))
    scheduler.add(TokenSequence("other", [9] * 100))
    chunks = scheduler.plan()
    assert shape(chunks) == [("a", 100)]
    advance(chunks)
    assert shape(scheduler.plan()) == [("a", 1), ("b", 100), ("other", 100)]


def test_plan_does_not_wait_for_short_prefixes_other_scopes_or_other_text() -> None:
    scheduler = Scheduler(CountingMemory(1000), max_running=8, step_tokens=500)
    scheduler.add(make("a", 100))
    scheduler.add(TokenSequence("scope", list(range(100)), scope="other"))
    scheduler.add(TokenSequence("text", [*range(40), *range(60)]))
    scheduler.add(make("short", 40))
    assert [name for name, _ in shape(scheduler.plan())] == ["a", "scope", "text", "short"]


def test_finish_takes_waiting_and_running_sequences_out() -> None:
    memory = CountingMemory(100)
    scheduler = Scheduler(memory, max_running=1, step_tokens=100)
    running, waiting = make("a", 2), make("b", 2)
    scheduler.add(running)
    scheduler.add(waiting)
    scheduler.plan()
    scheduler.finish(waiting)
    scheduler.finish(running)
    assert not scheduler.plan()
    assert not memory.held


def test_scheduler_random_load_loses_no_sequence() -> None:
    draw = random.Random(1)
    memory = CountingMemory(60)
    scheduler = Scheduler(memory, max_running=4, step_tokens=7)
    wanted = {f"{number}": draw.randint(1, 12) for number in range(60)}
    sequences = {name: make(name, draw.randint(1, 30)) for name in wanted}
    starts = {name: len(sequence.ids) for name, sequence in sequences.items()}
    for sequence in sequences.values():
        scheduler.add(sequence)
    for _ in range(5000):
        advance(chunks := scheduler.plan())
        assert len(scheduler.running) <= 4
        for sequence in [chunk.sequence for chunk in chunks]:
            if len(sequence.ids) - starts[sequence.request_id] >= wanted[sequence.request_id]:
                wanted.pop(sequence.request_id)
                scheduler.finish(sequence)
    assert not wanted
    assert not memory.held


def test_draft_ids_of_a_preempted_sequence_are_cleared() -> None:
    memory = CountingMemory(12)
    scheduler = Scheduler(memory, max_running=8, step_tokens=100)
    old, young = make("old", 5), make("young", 5)
    scheduler.add(old)
    scheduler.add(young)
    advance(scheduler.plan())
    young.propose([7])
    memory.room = 7  # for one of them
    assert shape(scheduler.plan()) == [("old", 1)]
    assert not young.draft_ids
