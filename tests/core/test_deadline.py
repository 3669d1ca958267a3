"""A deadline ends work that waits, and no other."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.core.deadline import Deadline

PASSED = Deadline.after(-1)


def later() -> Deadline:
    return Deadline.after(60)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def wait_twice(log: list[str]) -> None:
    for name in ("first", "second"):
        await asyncio.sleep(0)
        log.append(name)


async def fail(waits: bool) -> None:
    if waits:
        await asyncio.sleep(0)
    raise KeyError("expected")


def test_work_that_does_not_wait_ends_also_after_the_deadline() -> None:
    log = list[str]()

    async def work() -> None:
        log.append("done")

    run(PASSED.finish(work()))
    assert log == ["done"]


def test_work_that_waits_ends_within_the_deadline() -> None:
    log = list[str]()
    run(later().finish(wait_twice(log)))
    assert log == ["first", "second"]


def test_work_that_waits_beyond_the_deadline_is_cancelled() -> None:
    log = list[str]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    with pytest.raises(TimeoutError):
        run(Deadline.after(0.01).finish(work()))
    assert log == ["cleaned up"]


@pytest.mark.parametrize("waits", [False, True])
def test_error_of_the_work_is_raised(waits: bool) -> None:
    with pytest.raises(KeyError, match="expected"):
        run(later().finish(fail(waits)))


def test_cancelling_reaches_the_work() -> None:
    async def scenario() -> None:
        has_begun, log = asyncio.Event(), list[str]()

        async def work() -> None:
            has_begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        task = asyncio.create_task(later().finish(work()))
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cancelled"]

    run(scenario())
