import asyncio
import gc
import tracemalloc
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import pytest

from app.core.errors import (
    DomainError,
    InternalError,
    QueueFull,
    ShuttingDown,
    TurnNotFound,
    TurnStopped,
    WorkerDied,
)
from app.models.chat.transcript import to_summary
from app.models.conversation import Conversation
from app.models.schemas import ChatResponse, DeltaEvent, RunningTurn
from app.models.turns.turn_log import TurnEvent, TurnLog
from app.models.turns.turn_registry import RegisteredTurn, TurnReader, TurnRegistry, stop
from tests.api.fakes import REPLY, START

INTERRUPTED = REPLY.model_copy(update={"finish_reason": "interrupted"})


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:  # without a second task, which would be counted
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


async def answer(log: TurnLog, texts: int = 2) -> ChatResponse:
    """A turn that is over at once."""
    log.add(START)
    for _ in range(texts):
        log.add(DeltaEvent(text="hi "))
        await asyncio.sleep(0)
    return REPLY


async def endless(log: TurnLog, commit: asyncio.Event | None = None) -> ChatResponse:
    """A turn that ends only when it is stopped, after its commit."""
    log.add(START)
    log.add(DeltaEvent(text="hi"))
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if commit is not None:
            await commit.wait()
    return INTERRUPTED


async def fails(log: TurnLog, error: Exception, *, at_once: bool = False) -> ChatResponse:
    if not at_once:
        log.add(START)
    raise error


def started(registry: TurnRegistry, message_id: str = "msg_1", **options: Any) -> RegisteredTurn:
    log = TurnLog(message_id)
    return registry.start("ada", log, endless(log, **options))


async def ended(registry: TurnRegistry, message_id: str = "msg_1", **options: Any) -> RegisteredTurn:
    log = TurnLog(message_id)
    turn = registry.start("ada", log, answer(log, **options))
    await read(turn)
    return turn


async def read(turn: RegisteredTurn, after: int = 0) -> list[TurnEvent]:
    async with aclosing(TurnReader(turn.log, after)) as reader:
        return [record.event async for record in reader]


def is_known(registry: TurnRegistry, message_id: str = "msg_1") -> bool:
    try:
        return registry.find("ada", message_id).log.message_id == message_id
    except TurnNotFound:
        return False


def test_a_turn_can_be_read_by_several_readers_during_and_after_it() -> None:
    async def scenario() -> None:
        registry = TurnRegistry()
        log = TurnLog("msg_1")
        turn = registry.start("ada", log, answer(log))
        readers = await asyncio.gather(*(read(turn) for _ in range(3)), read(registry.find("ada", "msg_1")))
        for events in (*readers, await read(registry.find("ada", "msg_1"))):
            assert (events[0], events[-1]) == (START, REPLY)
            assert "".join(each.text for each in events if isinstance(each, DeltaEvent)) == "hi hi "

    run(scenario())


def test_a_turn_does_not_exist_for_another_owner() -> None:
    async def scenario() -> None:
        registry = TurnRegistry()
        started(registry)
        errors = []
        for owner, message_id in (("ada", "msg_none"), ("bob", "msg_none"), ("bob", "msg_1")):
            with pytest.raises(TurnNotFound) as caught:
                registry.find(owner, message_id)
            errors.append((caught.value.message, caught.value.hint))
        assert len(set(errors)) == 1
        await registry.close()

    run(scenario())


def test_readers_that_leave_never_stop_a_turn_unless_theirs_does() -> None:
    async def scenario() -> None:
        registry = TurnRegistry()
        turn = started(registry)
        for _ in range(3):
            async with aclosing(TurnReader(turn.log)) as reader:
                await anext(reader)
        assert not turn.log.has_ended
        async with aclosing(TurnReader(turn.log, stops=turn)) as reader:
            await anext(reader)
        assert turn.log.response == INTERRUPTED

    run(scenario())


def test_a_background_turn_outlives_only_a_reader_that_knows_its_id() -> None:
    async def scenario() -> None:
        registry = TurnRegistry()
        turn = started(registry)
        async with aclosing(TurnReader(turn.log, stops=turn, is_background=True)) as reader:
            await anext(reader)  # the start event, which has the id
        assert not turn.log.has_ended
        unknown = started(registry, "msg_2")
        await TurnReader(unknown.log, stops=unknown, is_background=True).aclose()
        assert unknown.log.has_ended
        await registry.close()

    run(scenario())


def test_stop_waits_until_the_text_is_committed() -> None:
    async def scenario() -> None:
        registry, commit = TurnRegistry(), asyncio.Event()
        turn = started(registry, commit=commit)
        following = asyncio.create_task(read(turn))
        stopping = asyncio.create_task(stop(turn))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not stopping.done() and not turn.log.has_ended
        commit.set()
        await stopping
        assert turn.log.response == INTERRUPTED
        assert (await following)[-1] == INTERRUPTED
        await stop(turn)  # it has ended: nothing happens

    run(scenario())


def test_a_turn_that_is_stopped_before_its_first_step_ends_with_an_error() -> None:
    async def scenario() -> None:
        registry, never = TurnRegistry(), TurnLog("msg_1")
        turn = registry.start("ada", never, wait_for_ever())
        await stop(turn)
        with pytest.raises(TurnStopped):
            await read(turn)
        assert not is_known(registry)

    run(scenario())


async def wait_for_ever() -> ChatResponse:
    await asyncio.Event().wait()
    return REPLY


@pytest.mark.parametrize("error", [WorkerDied("It died."), ZeroDivisionError("secret")])
def test_an_error_is_the_last_event_of_a_turn(error: Exception) -> None:
    async def scenario() -> None:
        registry, log = TurnRegistry(), TurnLog("msg_1")
        turn = registry.start("ada", log, fails(log, error))
        expected = error if isinstance(error, DomainError) else InternalError("")
        for after in (0, 1):
            with pytest.raises(type(expected)) as caught:
                await read(turn, after)
            assert "secret" not in caught.value.message
        assert await read(turn, 2) == []
        assert is_known(registry)

    run(scenario())


def test_a_turn_that_fails_before_its_first_event_is_forgotten_at_once() -> None:
    async def scenario() -> None:
        registry, log = TurnRegistry(), TurnLog("msg_1")
        turn = registry.start("ada", log, fails(log, WorkerDied("It died."), at_once=True))
        with pytest.raises(WorkerDied):
            await read(turn)
        assert not is_known(registry)

    run(scenario())


def test_a_turn_is_forgotten_some_time_after_its_end() -> None:
    async def scenario() -> None:
        now_s = [0.0]
        registry = TurnRegistry(kept_s=300, clock=lambda: now_s[0])
        await ended(registry)
        running = started(registry, "msg_2")
        now_s[0] = 299.0
        assert is_known(registry)
        now_s[0] = 300.0
        assert not is_known(registry) and is_known(registry, "msg_2")
        await stop(running)
        assert is_known(registry, "msg_2")  # its time begins at its end
        now_s[0] = 600.0
        assert not is_known(registry, "msg_2")

    run(scenario())


def test_the_oldest_turns_are_forgotten_beyond_the_bound_of_bytes() -> None:
    async def scenario() -> None:
        registry = TurnRegistry(kept_bytes=30_000)
        names = [f"msg_{number}" for number in range(20)]
        for name in names:
            await ended(registry, name, texts=50)
        known = [name for name in names if is_known(registry, name)]
        assert known == names[-len(known) :] and 1 <= len(known) < 10
        large = await ended(registry, "msg_large", texts=2_000)
        assert not any(is_known(registry, name) for name in (*names, "msg_large"))
        assert (await read(large))[-1] == REPLY  # for a reader that has found it before

    run(scenario())


def test_close_stops_all_turns_and_refuses_later_ones() -> None:
    async def scenario() -> None:
        registry, silent = TurnRegistry(), TurnLog("msg_silent")
        turns = [started(registry, f"msg_{number}") for number in range(5)]
        waiting = registry.start("ada", silent, wait_for_ever())
        following = [asyncio.create_task(read(turn)) for turn in turns]
        await registry.close()
        assert [(await events)[-1] for events in following] == [INTERRUPTED] * 5
        with pytest.raises(ShuttingDown):
            await read(waiting)
        with pytest.raises(ShuttingDown):
            started(registry)
        assert len(asyncio.all_tasks()) == 1

    run(scenario())


def test_the_question_of_a_turn_is_not_kept_after_its_end() -> None:
    async def scenario() -> None:
        log = TurnLog("msg_1")
        log.turn = RunningTurn(
            message_id="msg_1",
            conversation_id="conv_1",
            conversation=to_summary(Conversation(id="conv_1")),
            parent_id=None,
            question="Hi" * 1000,
            continues=None,
        )
        registry = TurnRegistry()
        turn = registry.start("ada", log, answer(log))
        assert registry.running("ada") == [log.turn]
        assert registry.running("bob") == []
        await asyncio.wait((turn.task,))
        assert log.turn is None
        assert registry.find("ada", "msg_1") is turn

    run(scenario())


def test_too_many_running_turns_are_refused() -> None:
    async def scenario() -> None:
        registry = TurnRegistry(max_running=2)
        turns = [started(registry, f"msg_{number}") for number in range(2)]
        with pytest.raises(QueueFull):
            started(registry, "msg_3")
        await stop(turns[0])
        started(registry, "msg_3")
        await registry.close()

    run(scenario())


def test_a_thousand_turns_leave_no_task_and_no_memory() -> None:
    async def scenario() -> None:
        now_s = [0.0]
        registry = TurnRegistry(clock=lambda: now_s[0])

        async def many(count: int) -> int:
            """The memory in use after so many turns, all of which are too old to be kept."""
            for number in range(count):
                await ended(registry, f"msg_{number}")
                await stop(started(registry, f"msg_{number}_endless"))
                now_s[0] += 100
            now_s[0] += 1_000
            assert not is_known(registry, "msg_none")
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            before = await many(50)
            assert await many(1_000) < before + 50_000
        finally:
            tracemalloc.stop()
        assert len(asyncio.all_tasks()) == 1

    run(scenario())
