"""Calls of a tokenizer end in time, or nobody waits for them any longer."""

import threading
from collections.abc import Iterator

import pytest

from app.core.errors import InvalidRequest
from app.engine.tokenization.bounded_calls import BoundedCalls
from tests.waiting import wait_for


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_call_that_does_not_return_fails_and_counts_until_it_ends(release: threading.Event) -> None:
    calls = BoundedCalls(limit_s=0.01)
    with pytest.raises(InvalidRequest, match="takes too long"):
        calls.call(release.wait, 10)
    assert calls.lost == 1
    assert calls.call(lambda: [1, 2], 10) == [1, 2]
    release.set()
    wait_for(lambda: calls.lost == 0, "the call to return")


def test_long_text_has_more_time() -> None:
    calls = BoundedCalls(limit_s=10)
    assert calls.limit_s(100) < 10.1
    assert calls.limit_s(1_000_000) == 20


class Panic(BaseException):
    """As a panic of a library in Rust, it is no Exception."""


def test_error_of_a_call_reaches_its_caller() -> None:
    def fail() -> None:
        raise Panic

    with pytest.raises(Panic):
        BoundedCalls().call(fail, 1)
