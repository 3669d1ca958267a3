"""Slots that are ranges of one stretch keep what was written, whatever moves around them."""

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from app.engine.ipc.messages import Finished
from app.engine.kv.pool import KVPool, PooledSlot
from tests.engine.tiny import TinyModel, greedy, run


def pairs_of(numbers: list[int]) -> Tensor:
    """Keys and values `[2, 1, 2, rows, 4]` that tell which number they belong to."""
    return torch.tensor(numbers, dtype=torch.float32).view(1, 1, 1, -1, 1).expand(2, 1, 2, -1, 4)


def write(slot: PooledSlot, start: int, numbers: list[int]) -> None:
    for layer in (0, 1):
        slot.write(layer, start, (layer + 1) * pairs_of(numbers))


def read(slot: PooledSlot, length: int) -> list[int]:
    """What stands in the slot, and the same in both layers."""
    first, second = (slot.write(layer, 0, pairs_of([])).narrow(3, 0, length) for layer in (0, 1))
    assert torch.equal(2 * first, second)
    assert torch.equal(first, first[:1, :, :1, :, :1].expand_as(first))
    return [int(number) for number in first[0, 0, 0, :, 0]]


def test_growing_keeps_every_slot() -> None:
    arena = KVPool(64, first=8)
    first = arena.new(8)
    write(first, 0, [1, 2, 3])
    second = arena.new(20)
    write(second, 0, [7, 8])
    assert (read(first, 3), read(second, 2)) == ([1, 2, 3], [7, 8])
    arena.check_integrity()


def test_a_slot_grows_in_place_where_there_is_room() -> None:
    arena = KVPool(64, first=64)
    slot = arena.new(8)
    write(slot, 0, [1, 2, 3])
    before = slot.start
    arena.resize(slot, 3, 16)
    assert (slot.start, slot.capacity) == (before, 16)
    assert arena.moves == 0


def test_gaps_become_one_when_only_that_makes_room() -> None:
    arena = KVPool(32, first=32)
    slots = [arena.new(8) for _ in range(4)]
    for number, slot in enumerate(slots):
        write(slot, 0, [10 * number + step for step in range(8)])
    arena.drop(slots[0])
    arena.drop(slots[2])
    wide = arena.new(16)
    write(wide, 0, [99] * 16)
    assert read(slots[1], 8) == list(range(10, 18))
    assert read(slots[3], 8) == list(range(30, 38))
    arena.check_integrity()


def test_a_slot_can_have_all_that_is_left_and_its_own_place() -> None:
    arena = KVPool(32, first=32)
    low, slot, high = arena.new(8), arena.new(8), arena.new(8)
    write(slot, 0, [1, 2, 3])
    write(high, 0, [5])
    arena.drop(low)
    arena.resize(slot, 3, 24)
    assert (read(slot, 3), read(high, 1)) == ([1, 2, 3], [5])
    arena.check_integrity()


def test_copies_are_slots_of_their_own() -> None:
    arena = KVPool(64, first=16)
    slot = arena.new(8, "scope")
    write(slot, 0, [1, 2, 3, 4])
    twin = arena.copy(slot, 2, 16)
    write(twin, 2, [9])
    assert (read(twin, 3), read(slot, 4), twin.scope) == ([1, 2, 9], [1, 2, 3, 4], "scope")


class Full(KVPool):
    """There is no memory for it to grow, so many times."""

    failures = 0

    def _widen(self, size: int) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("out of memory")
        super()._widen(size)


def test_it_grows_by_what_is_needed_where_twice_as_much_is_not_to_be_had() -> None:
    arena = Full(1000, first=64)
    write(arena.new(64), 0, [1])
    arena.failures = 1
    arena.new(20)
    assert {tensor.shape[3] for tensor in arena._layers.values()} == {2 + 64 + 20}
    assert arena.moves == 2


def test_growth_that_fails_leaves_all_as_it_was() -> None:
    arena = Full(1000, first=64)
    slot = arena.new(64)
    write(slot, 0, [1, 2])
    arena.failures = 4
    for grow in (lambda: arena.new(20), lambda: arena.resize(slot, 2, 80)):
        with pytest.raises(RuntimeError):
            grow()
    assert (read(slot, 2), slot.capacity) == ([1, 2], 64)
    arena.check_integrity()


def test_a_prefix_taken_over_when_memory_runs_out_is_nobodys_for_ever(llama: TinyModel) -> None:
    """Its place comes back, so that later requests find room."""
    tiny = replace(llama, has_arena=True)
    arena = Full(384, first=64)
    engine = tiny.engine(cache_tokens=384, arena=arena)
    run(engine, greedy("a", "x", 4))
    arena.failures = 2
    long = "x" + " vbnm kjhg" * 9  # no words of the tokenizer's: an id for each byte
    assert run(engine, greedy("b", long, 20)).texts["b"] == llama.generate(long, 20)
    many = [greedy(str(number), f"{number} on the mat " * 8, 40, scope=str(number)) for number in range(6)]
    assert all(isinstance(end, Finished) for end in run(engine, *many).ends.values())


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_work_keeps_what_was_written(seed: int) -> None:
    draw = random.Random(seed)
    arena = KVPool(96, first=16)
    known: dict[PooledSlot, list[int]] = {}
    for step in range(300):
        free = 96 - sum(slot.capacity for slot in known)
        slot = draw.choice(list(known)) if known else None
        action = draw.choice(("new", "copy", "resize", "drop"))
        if action == "new" and free > 0:
            made = arena.new(draw.randint(1, free))
            known[made] = [step] * draw.randint(1, made.capacity)
            write(made, 0, known[made])
        elif action == "copy" and free > 0 and slot is not None:
            length = draw.randint(1, min(len(known[slot]), free))
            known[arena.copy(slot, length, draw.randint(length, free))] = known[slot][:length]
        elif action == "resize" and slot is not None:
            length = draw.randint(1, len(known[slot]))
            arena.resize(slot, length, draw.randint(length, slot.capacity + free))
            known[slot] = known[slot][:length]
        elif action == "drop" and slot is not None:
            arena.drop(slot)
            del known[slot]
        arena.check_integrity()
    for slot, numbers in known.items():
        assert read(slot, len(numbers)) == numbers
