"""Free positions can be taken once, and free_list that touch are merged."""

import random

import pytest

from app.engine.kv.free_list import FreeList


def test_take_returns_the_first_range_that_is_long_enough() -> None:
    free_list = FreeList()
    free_list.give(10, 2)
    free_list.give(20, 5)
    assert free_list.take(3) == 20
    assert free_list.take(3) is None
    assert free_list.take(2) == 10
    assert free_list.take(2) == 23
    assert free_list.total == 0


def test_give_merges_neighbours() -> None:
    free_list = FreeList()
    for start in (4, 0, 2):
        free_list.give(start, 2)
    assert free_list.take(6) == 0


def test_take_at_needs_the_whole_range() -> None:
    free_list = FreeList()
    free_list.give(10, 5)
    assert not free_list.take_at(12, 2)
    assert not free_list.take_at(10, 6)
    assert free_list.take_at(10, 4)
    assert free_list.take(1) == 14


def test_giving_twice_is_an_error() -> None:
    free_list = FreeList()
    free_list.give(10, 5)
    with pytest.raises(AssertionError):
        free_list.give(12, 1)
    with pytest.raises(AssertionError):
        free_list.give(8, 3)


def test_random_use_agrees_with_a_set_of_positions() -> None:
    draw = random.Random(1)
    free_list, free = FreeList(), set(range(64))
    taken: list[tuple[int, int]] = []
    free_list.give(0, 64)
    for _ in range(2000):
        if taken and draw.random() < 0.5:
            start, length = taken.pop(draw.randrange(len(taken)))
            free_list.give(start, length)
            free |= set(range(start, start + length))
        else:
            length = draw.randint(1, 12)
            found = free_list.take(length)
            assert (found is not None) == any(free >= set(range(at, at + length)) for at in range(64))
            if found is not None:
                taken.append((found, length))
                assert free >= set(range(found, found + length))
                free -= set(range(found, found + length))
        assert free_list.total == len(free)
