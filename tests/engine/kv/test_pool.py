"""Slots in a pool keep what was written to them, whatever moves around them."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from app.engine.ipc.messages import Finished
from app.engine.kv.pool import KVPool, PooledSlot
from tests.engine.out_of_memory import OutOfMemory
from tests.engine.tiny import TinyModel, greedy, run


def pairs_of(numbers: list[int]) -> Tensor:
    """Returns keys and values `[2, 1, 2, rows, 4]`, in which each element of a row is its number."""
    return torch.tensor(numbers, dtype=torch.float32).view(1, 1, 1, -1, 1).expand(2, 1, 2, -1, 4)


def write(slot: PooledSlot, start: int, numbers: list[int]) -> None:
    for layer in (0, 1):
        slot.write(layer, start, (layer + 1) * pairs_of(numbers))


def read(slot: PooledSlot, length: int) -> list[int]:
    """The numbers in the slot, which must be the same in both layers."""
    first, second = (slot.write(layer, 0, pairs_of([])).narrow(3, 0, length) for layer in (0, 1))
    assert torch.equal(2 * first, second)
    assert torch.equal(first, first[:1, :, :1, :, :1].expand_as(first))
    return [int(number) for number in first[0, 0, 0, :, 0]]


def test_growth_keeps_every_slot() -> None:
    pool = KVPool(64, first=8)
    first = pool.new(8)
    write(first, 0, [1, 2, 3])
    second = pool.new(20)
    write(second, 0, [7, 8])
    assert (read(first, 3), read(second, 2)) == ([1, 2, 3], [7, 8])
    pool.check_integrity()


def test_resize_stays_in_place_if_there_is_room() -> None:
    pool = KVPool(64, first=64)
    slot = pool.new(8)
    write(slot, 0, [1, 2, 3])
    before = slot.start
    pool.resize(slot, 3, 16)
    assert (slot.start, slot.capacity) == (before, 16)
    assert pool.moves == 0


def test_new_compacts_if_only_that_makes_room() -> None:
    pool = KVPool(32, first=32)
    slots = [pool.new(8) for _ in range(4)]
    for number, slot in enumerate(slots):
        write(slot, 0, [10 * number + step for step in range(8)])
    pool.drop(slots[0])
    pool.drop(slots[2])
    wide = pool.new(16)
    write(wide, 0, [99] * 16)
    assert read(slots[1], 8) == list(range(10, 18))
    assert read(slots[3], 8) == list(range(30, 38))
    pool.check_integrity()


def test_compaction_of_many_positions_keeps_their_values() -> None:
    """Of slots that move by less than their own length, of more positions than are copied at a time."""
    capacity, count = 6000, 4
    pool = KVPool(capacity * count, first=capacity * count)
    first = pool.new(40)
    slots = [pool.new(capacity - 10) for _ in range(count - 1)]
    for number, slot in enumerate(slots):
        write(slot, 0, list(range(100_000 * number, 100_000 * number + capacity - 10)))
    pool.drop(first)
    pool.new(capacity + 30)
    for number, slot in enumerate(slots):
        values = read(slot, capacity - 10)
        assert values == list(range(100_000 * number, 100_000 * number + capacity - 10))
    pool.check_integrity()


def test_resize_can_use_all_free_positions_and_its_own() -> None:
    pool = KVPool(32, first=32)
    low, slot, high = pool.new(8), pool.new(8), pool.new(8)
    write(slot, 0, [1, 2, 3])
    write(high, 0, [5])
    pool.drop(low)
    pool.resize(slot, 3, 24)
    assert (read(slot, 3), read(high, 1)) == ([1, 2, 3], [5])
    pool.check_integrity()


def test_copy_is_independent() -> None:
    pool = KVPool(64, first=16)
    slot = pool.new(8, "scope")
    write(slot, 0, [1, 2, 3, 4])
    copy = pool.copy(slot, 2, 16)
    write(copy, 2, [9])
    assert (read(copy, 3), read(slot, 4), copy.scope) == ([1, 2, 9], [1, 2, 3, 4], "scope")


def test_pool_grows_by_the_minimum_if_doubling_fails() -> None:
    pool = KVPool(1000, first=64)
    write(pool.new(64), 0, [1])
    with OutOfMemory(longest=0, times=1):
        pool.new(20)
    assert (pool.size, pool.moves) == (64 + 20, 2)
    pool.check_integrity()


@pytest.mark.parametrize(
    "grow", [lambda pool, slot: pool.new(20), lambda pool, slot: pool.resize(slot, 2, 80)]
)
def test_growth_that_fails_changes_nothing(grow: Callable[[KVPool, PooledSlot], object]) -> None:
    pool = KVPool(1000, first=64)
    slot = pool.new(64)
    write(slot, 0, [1, 2])
    with OutOfMemory(longest=0, times=2), pytest.raises(torch.OutOfMemoryError):
        grow(pool, slot)
    assert (read(slot, 2), slot.capacity) == ([1, 2], 64)
    pool.check_integrity()


def test_slot_taken_over_when_memory_runs_out_is_freed(llama: TinyModel) -> None:
    """Later requests find room."""
    engine = llama.engine(cache_tokens=384, pool=KVPool(384, first=64))
    run(engine, greedy("a", "x", 4))
    long = "x" + " vbnm kjhg" * 9  # not words of the tokenizer, so an id for each byte
    with OutOfMemory(longest=64, times=2) as device:
        assert run(engine, greedy("b", long, 20)).texts["b"] == llama.generate(long, 20)
    assert device.left == 0
    many = [greedy(str(number), f"{number} on the mat " * 8, 40, scope=str(number)) for number in range(6)]
    assert all(isinstance(end, Finished) for end in run(engine, *many).ends.values())


@pytest.mark.parametrize("seed", range(5))
def test_random_use_keeps_what_was_written(seed: int) -> None:
    draw = random.Random(seed)
    pool = KVPool(96, first=16)
    known: dict[PooledSlot, list[int]] = {}
    for step in range(300):
        free = 96 - sum(slot.capacity for slot in known)
        slot = draw.choice(list(known)) if known else None
        action = draw.choice(("new", "copy", "resize", "drop"))
        if action == "new" and free > 0:
            made = pool.new(draw.randint(1, free))
            known[made] = [step] * draw.randint(1, made.capacity)
            write(made, 0, known[made])
        elif action == "copy" and free > 0 and slot is not None:
            length = draw.randint(1, min(len(known[slot]), free))
            known[pool.copy(slot, length, draw.randint(length, free))] = known[slot][:length]
        elif action == "resize" and slot is not None:
            length = draw.randint(1, len(known[slot]))
            pool.resize(slot, length, draw.randint(length, slot.capacity + free))
            known[slot] = known[slot][:length]
        elif action == "drop" and slot is not None:
            pool.drop(slot)
            del known[slot]
        pool.check_integrity()
    for slot, numbers in known.items():
        assert read(slot, len(numbers)) == numbers
