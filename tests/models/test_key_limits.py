"""Windows, open requests and tokens of callers, with a clock that the test sets."""

from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hypothesis import given, strategies as st

from app.core.config import Settings
from app.core.errors import RateLimitExceeded
from app.models.key_limits import WINDOW_S, Budget, KeyLimits, MinuteWindow


@dataclass
class Clock:
    now: float = 1000.5

    def __call__(self) -> float:
        return self.now


# Fractions of a power of two, so that their sums are exact.
gaps = st.integers(0, 3 * 1024).map(lambda parts: parts / 1024) | st.integers(0, 70).map(float)
uses = st.lists(st.tuples(gaps, st.integers(1, 5)), min_size=1, max_size=60)
limits = st.integers(1, 12)


def used(limit: int, history: list[tuple[float, int]], later_s: float = 0) -> MinuteWindow:
    """Returns a window `later_s` after the last of these uses, which count even if there was no room."""
    clock = Clock()
    window = MinuteWindow(limit, clock)
    for gap, amount in history:
        clock.now += gap
        window.add(amount)
    clock.now += later_s
    return window


@given(limit=limits, waits=st.lists(gaps, max_size=80))
def test_no_minute_has_more_requests_than_the_limit(limit: int, waits: list[float]) -> None:
    clock, admitted = Clock(), list[float]()
    window = MinuteWindow(limit, clock)
    for wait in waits:
        clock.now += wait
        if window.wait_s() == 0:
            window.add(1)
            admitted.append(clock.now)
    for moment in admitted:
        assert sum(moment - WINDOW_S < other <= moment for other in admitted) <= limit


@given(limit=limits, waits=st.lists(gaps, max_size=80))
def test_request_is_admitted_if_the_last_minute_and_a_second_have_room(
    limit: int, waits: list[float]
) -> None:
    clock, admitted = Clock(), list[float]()
    window = MinuteWindow(limit, clock)
    for wait in waits:
        clock.now += wait
        if window.wait_s() == 0:
            window.add(1)
            admitted.append(clock.now)
        else:
            assert sum(clock.now - WINDOW_S - 1 < moment for moment in admitted) >= limit


@given(limit=limits, history=uses, later_s=gaps)
def test_wait_is_right_to_the_second(limit: int, history: list[tuple[float, int]], later_s: float) -> None:
    wait_s = used(limit, history, later_s).wait_s()
    assert 0 <= wait_s <= WINDOW_S
    assert used(limit, history, later_s + wait_s).wait_s() == 0
    if wait_s > 0:
        assert used(limit, history, later_s + wait_s - 1).wait_s() == 1


@given(limit=limits, history=uses, later_s=gaps)
def test_budget_says_what_is_left_and_when_all_of_it_is(
    limit: int, history: list[tuple[float, int]], later_s: float
) -> None:
    window = used(limit, history, later_s)
    budget = window.budget("tokens")
    assert (budget.remaining == 0) == (window.wait_s() > 0)
    assert 0 <= budget.remaining <= budget.limit == limit
    assert used(limit, history, later_s + budget.reset_s).budget("tokens") == Budget(
        "tokens", limit, limit, 0
    )
    if budget.reset_s > 0:
        assert used(limit, history, later_s + budget.reset_s - 1).budget("tokens").remaining < limit


def test_limits_are_off_by_default() -> None:
    callers = KeyLimits.of(Settings(_env_file=None))
    with ExitStack() as open_requests:
        for _ in range(1_000):
            callers.count_request("alice")
            open_requests.enter_context(callers.admit("alice")).count_prompt(1_000_000)
    assert callers.budgets("alice") == []


def test_requests_a_minute_are_those_of_one_caller() -> None:
    clock = Clock()
    callers = KeyLimits(requests_per_minute=2, clock=clock)
    callers.count_request("alice")
    callers.count_request("alice")
    with pytest.raises(RateLimitExceeded) as caught:
        callers.count_request("alice")
    assert caught.value.retry_after == 60
    callers.count_request("bob")
    assert [callers.budgets(owner)[0].remaining for owner in ("alice", "bob", "carol")] == [0, 1, 2]
    clock.now += 60
    callers.count_request("alice")


def test_open_requests_are_those_of_one_caller_and_end_however_they_end() -> None:
    callers = KeyLimits(max_open_requests=2)
    with callers.admit("alice"), callers.admit("bob"):
        with pytest.raises(ZeroDivisionError), callers.admit("alice"):
            with pytest.raises(RateLimitExceeded), callers.admit("alice"):
                pass
            raise ZeroDivisionError
        with callers.admit("alice"):
            pass


def test_refused_request_uses_nothing() -> None:
    clock = Clock()
    callers = KeyLimits(max_open_requests=1, requests_per_minute=1, clock=clock)
    callers.count_request("alice")
    for _ in range(59):
        clock.now += 1
        with pytest.raises(RateLimitExceeded):
            callers.count_request("alice")
    clock.now += 1
    callers.count_request("alice")


def test_tokens_count_as_they_come_and_may_exceed_the_limit_once() -> None:
    clock = Clock()
    callers = KeyLimits(tokens_per_minute=100, clock=clock)
    with callers.admit("alice") as meter:
        meter.count_prompt(30)
        meter.count_completion(1)
        meter.count_completion(60)
        assert callers.budgets("alice") == [Budget("tokens", 100, 10, 60)]
        with callers.admit("alice"):
            pass
        meter.count_completion(500)
        clock.now += 20
        with pytest.raises(RateLimitExceeded, match="100 tokens a minute") as caught, callers.admit("alice"):
            pass
    assert caught.value.retry_after == 40
    with callers.admit("bob"):
        pass
