import asyncio
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, strategies as st

from app.core.errors import DomainError, InvalidRequest, WorkerDied
from app.models.schemas import DeltaEvent, LoadProgress, LogprobEntry, ThinkingEvent
from app.models.turns.turn_log import TurnEvent, TurnLog, TurnRecord
from app.models.turns.turn_registry import TurnReader
from tests.api.fakes import REPLY, START

ENTRY = LogprobEntry(token="x", token_id=1, bytes=[120], logprob=-1.0, top_logprobs=[])
EVENTS = st.one_of(
    st.builds(DeltaEvent, text=st.text(min_size=1, max_size=3)),
    st.builds(ThinkingEvent, text=st.text(min_size=1, max_size=3)),
    st.builds(lambda text: DeltaEvent(text=text, logprobs=[ENTRY]), st.text(min_size=1, max_size=3)),
    st.builds(LoadProgress, model_name=st.just("m"), stage=st.just("load"), fraction=st.floats(0, 1)),
    st.just(START),
)


def text(value: str) -> DeltaEvent:
    return DeltaEvent(text=value)


def joined(events: Iterable[TurnEvent]) -> list[object]:
    """The events as a list that does not depend on where texts were cut: of progress, only the newest."""
    found: list[object] = []
    for event in events:
        if isinstance(event, LoadProgress):
            if found and isinstance(found[-1], LoadProgress):
                found.pop()
            found.append(event)
        elif isinstance(event, ThinkingEvent) or (isinstance(event, DeltaEvent) and event.logprobs is None):
            found += [(type(event), character) for character in event.text]
        else:
            found.append(event)
    return found


async def rest(log: TurnLog, after: int) -> tuple[list[TurnRecord], DomainError | None]:
    """The records after this one, and the error at the end."""
    records: list[TurnRecord] = []
    try:
        async for record in TurnReader(log, after):
            records.append(record)
    except DomainError as error:
        return records, error
    return records, None


def check_rest(
    found: tuple[list[TurnRecord], DomainError | None], events: Sequence[TurnEvent], after: int, last_id: int
) -> None:
    """The rest is exactly what came after `after`, with growing ids up to that of the last event."""
    records, error = found
    ids = [record.id for record in records]
    assert joined(record.event for record in records) == joined(events[after:])
    assert ids == sorted(set(ids)) and all(after < each <= len(events) for each in ids)
    assert not ids or ids[-1] == len(events)
    assert (error is None) == (last_id == len(events) or after == last_id)


@given(st.lists(EVENTS, max_size=30), st.booleans(), st.data())
def test_readers_from_every_position_get_exactly_the_rest_while_it_is_recorded(
    events: list[TurnEvent], is_failure: bool, data: st.DataObject
) -> None:
    """Two readers for each position: one joins when that event was recorded, the other later."""
    joins = data.draw(
        st.lists(st.integers(0, len(events)), min_size=len(events) + 1, max_size=len(events) + 1)
    )
    pauses = data.draw(st.lists(st.integers(0, 2), min_size=len(events), max_size=len(events)))
    said: list[TurnEvent] = [*events] if is_failure else [*events, REPLY]

    async def scenario() -> None:
        log, readers = (
            TurnLog("msg_1"),
            dict[tuple[int, bool], asyncio.Task[tuple[list[TurnRecord], DomainError | None]]](),
        )

        def join(recorded: int) -> None:
            readers[recorded, False] = asyncio.create_task(rest(log, recorded))
            for after, at in enumerate(joins):
                if max(after, at) == recorded:
                    readers[after, True] = asyncio.create_task(rest(log, after))

        join(0)
        for number, (event, pause) in enumerate(zip(events, pauses, strict=True), start=1):
            log.add(event)
            for _ in range(pause):
                await asyncio.sleep(0)
            join(number)
        if is_failure:
            log.fail(WorkerDied("The worker died."))
        else:
            log.finish(REPLY)
        last_id = len(said) + (1 if is_failure and said else 0)
        assert log.last_id == last_id
        for (after, _), reading in readers.items():
            check_rest(await reading, said, after, last_id or -1)
        for after in range(last_id + 1):
            check_rest(await rest(log, after), said, after, last_id or -1)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_reader_that_keeps_up_gets_every_piece_as_it_came() -> None:
    async def scenario() -> None:
        log = TurnLog("msg_1")
        reader, records = TurnReader(log), []
        for number in range(1_000):
            log.add(text(f"{number} "))
            records.append(await anext(reader))
        assert records == [TurnRecord(number + 1, text(f"{number} ")) for number in range(1_000)]

    asyncio.run(scenario())


def test_a_reader_that_was_slow_gets_few_and_longer_pieces() -> None:
    async def scenario() -> None:
        log = TurnLog("msg_1")
        for number in range(1_000):
            log.add(text(f"{number} "))
        log.finish(REPLY)
        *pieces, done = [record async for record in TurnReader(log, 500)]
        assert "".join(
            piece.event.text for piece in pieces if isinstance(piece.event, DeltaEvent)
        ) == "".join(f"{number} " for number in range(500, 1_000))
        assert len(pieces) < 10 and done == TurnRecord(1_001, REPLY)

    asyncio.run(scenario())


def test_a_reader_of_many_recorded_events_lets_others_run() -> None:
    async def scenario() -> None:
        log = TurnLog("msg_1")
        for _ in range(100):
            log.add(START)
        log.finish(REPLY)
        reading = asyncio.create_task(rest(log, 0))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 100

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_an_event_that_the_turn_does_not_have_yet_is_refused() -> None:
    log = TurnLog("msg_1")
    log.add(START)
    log.check_id(1)
    with pytest.raises(InvalidRequest, match="after: the last event of the turn is 1"):
        log.check_id(2)


def test_progress_of_a_long_load_takes_little_memory() -> None:
    progress = LoadProgress(model_name="m", stage="download", fraction=0.5)

    async def scenario() -> None:
        log = TurnLog("msg_1")
        for _ in range(100_000):
            log.add(progress)
        log.add(START)
        assert log.size_bytes < 10_000
        assert [await log.next(0), await log.next(99_999)] == [TurnRecord(100_000, progress)] * 2

    asyncio.run(scenario())


def test_size_grows_with_texts_and_log_probabilities() -> None:
    async def scenario() -> None:
        plain, measured = TurnLog("msg_1"), TurnLog("msg_1")
        for _ in range(1_000):
            plain.add(text("four"))
            measured.add(DeltaEvent(text="four", logprobs=[ENTRY]))
        assert 4_000 < plain.size_bytes < 100_000 < measured.size_bytes

    asyncio.run(scenario())
