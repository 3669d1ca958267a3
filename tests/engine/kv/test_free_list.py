"""What is given can be taken, once, and what touches grows together."""

import random

import pytest

from app.engine.kv.free_list import FreeList


def test_take_gives_the_first_that_is_long_enough() -> None:
    ranges = FreeList()
    ranges.give(10, 2)
    ranges.give(20, 5)
    assert ranges.take(3) == 20
    assert ranges.take(3) is None
    assert ranges.take(2) == 10
    assert ranges.take(2) == 23
    assert ranges.total == 0


def test_neighbours_become_one() -> None:
    ranges = FreeList()
    for start in (4, 0, 2):
        ranges.give(start, 2)
    assert ranges.take(6) == 0


def test_take_at_wants_all_of_the_place() -> None:
    ranges = FreeList()
    ranges.give(10, 5)
    assert not ranges.take_at(12, 2)
    assert not ranges.take_at(10, 6)
    assert ranges.take_at(10, 4)
    assert ranges.take(1) == 14


def test_given_twice_is_an_error() -> None:
    ranges = FreeList()
    ranges.give(10, 5)
    with pytest.raises(AssertionError):
        ranges.give(12, 1)
    with pytest.raises(AssertionError):
        ranges.give(8, 3)


def test_any_order_agrees_with_a_set_of_positions() -> None:
    draw = random.Random(1)
    ranges, free, taken = FreeList(), set(range(64)), []
    ranges.give(0, 64)
    for _ in range(2000):
        if taken and draw.random() < 0.5:
            start, length = taken.pop(draw.randrange(len(taken)))
            ranges.give(start, length)
            free |= set(range(start, start + length))
        else:
            length = draw.randint(1, 12)
            start = ranges.take(length)
            fits = any(free >= set(range(at, at + length)) for at in range(64))
            assert (start is not None) == fits
            if start is not None:
                taken.append((start, length))
                assert free >= set(range(start, start + length))
                free -= set(range(start, start + length))
        assert ranges.total == len(free)
