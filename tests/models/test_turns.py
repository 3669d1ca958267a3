"""Turns that outlive their readers, and requests that are sent twice, on a stand-in engine."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from app.core.config import Settings
from app.core.errors import (
    ConversationBusy,
    DomainError,
    InvalidRequest,
    KeyReused,
    ShuttingDown,
    StoreUnavailable,
    TurnNotFound,
    WorkerDied,
)
from app.engine.backend import GenerationEvent
from app.engine.ipc.messages import Delta, ToolCallRef
from app.models.chat.generation import ChatGenerator
from app.models.chat.transcript import to_summary
from app.models.chat_manager import ChatModelManager
from app.models.conversation import Conversation, Message
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    EditRequest,
    RegenerateRequest,
    StartEvent,
    ThinkingEvent,
    ToolCallEvent,
)
from app.models.storage.key_records import KEY_LIFETIME, MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import PageRequest
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.keyed_turns import record_of
from app.models.turns.turn_log import EventReader, TurnEvent
from app.models.turns.turn_registry import TurnRegistry
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

HI = ChatRequest(message="hi")
IN_BACKGROUND = ChatRequest(message="hi", background=True)


class UnwritableStore(MemoryStore):
    """A store that is full."""

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        raise StoreUnavailable("The disk is full.")


@dataclass
class World:
    """A manager with all that it needs. `now_s` is the time of its registry."""

    backend: StandInBackend
    store: MemoryStore
    locks: LocalTurnLocks
    keys: MemoryKeyRecords
    now_s: list[float]
    chats: ChatModelManager

    async def count(self) -> int | None:
        """The number of stored conversations."""
        return (await self.store.page(OWNER, PageRequest(limit=100))).total

    async def branch(self, conversation_id: str | None) -> list[str]:
        conversation = await self.store.get(OWNER, str(conversation_id))
        return [each.content for each in await self.store.branch(conversation, conversation.head_id)]


def world(
    reply: Sequence[GenerationEvent] = HELLO,
    *,
    is_endless: bool = False,
    deaths: Sequence[int] = (),
    store_class: type[MemoryStore] = MemoryStore,
    beside: World | None = None,
    **settings: Any,  # as Settings types them
) -> World:
    """With `beside`, the manager of another process that shares the storage of that one."""
    backend = StandInBackend(reply=reply, is_endless=is_endless, deaths=[*deaths])
    locks, keys, now_s = LocalTurnLocks(), MemoryKeyRecords(), [0.0]
    store = store_class(max_conversations=100, ttl_s=600, held=locks.held)
    if beside is not None:
        locks, keys, store = beside.locks, beside.keys, beside.store
    turns = TurnRegistry(clock=lambda: now_s[0])
    generator = ChatGenerator(StandInModels(backend))
    chats = ChatModelManager(Settings(_env_file=None, **settings), store, locks, generator, turns, keys)
    return World(backend, store, locks, keys, now_s, chats)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def until_text(reader: EventReader) -> StartEvent:
    """Reads until the first text of the reply, and returns the start."""
    start: StartEvent | None = None
    async for record in reader:
        if isinstance(record.event, StartEvent):
            start = record.event
        if isinstance(record.event, DeltaEvent):
            break
    assert start is not None
    return start


def answer_of(events: Sequence[TurnEvent]) -> ChatResponse:
    assert isinstance(events[-1], ChatResponse)
    return events[-1]


async def read_all(reader: EventReader) -> list[TurnEvent]:
    async with aclosing(reader):
        return [record.event async for record in reader]


# Background


def test_a_client_that_leaves_stops_its_turn_and_its_text_is_committed_then() -> None:
    async def scenario() -> None:
        here = world(HELLO[:3], is_endless=True)
        async with aclosing(await here.chats.chat(OWNER, HI, soon())) as reader:
            start = await until_text(reader)
            assert here.locks.held == {start.conversation_id}
        assert not here.locks.held
        assert await here.branch(start.conversation_id) == ["hi", "Hello"]

    run(scenario())


def test_a_turn_in_the_background_goes_on_and_is_read_again() -> None:
    async def scenario() -> None:
        here = world(HELLO[:3], is_endless=True)
        async with aclosing(await here.chats.chat(OWNER, IN_BACKGROUND, soon())) as reader:
            start = await until_text(reader)
        assert here.locks.held == {start.conversation_id}
        message_id = str(start.message_id)
        again = asyncio.create_task(read(here.chats.events(OWNER, message_id, after=2)))
        stopped = await here.chats.stop(OWNER, message_id)
        assert stopped.was_running and stopped.reply is not None
        assert (stopped.reply.response, stopped.reply.finish_reason) == ("Hello", "interrupted")
        assert await again == [ThinkingEvent(text="Well"), DeltaEvent(text="Hello"), stopped.reply]
        assert await here.branch(start.conversation_id) == ["hi", "Hello"]
        assert not here.locks.held
        once_more = await here.chats.stop(OWNER, message_id)
        assert not once_more.was_running and once_more.reply == stopped.reply

    run(scenario())


def test_every_kind_of_turn_can_run_in_the_background() -> None:
    async def scenario() -> None:
        here = world()
        first = answer_of(await read(here.chats.chat(OWNER, HI, soon())))
        where, question = first.conversation_id, str(first.parent_id)
        here.backend.reply, here.backend.is_endless = HELLO[:3], True
        edit = EditRequest(message_id=question, message="ho", background=True)
        for begin in (
            here.chats.edit(OWNER, where, edit, soon()),
            here.chats.regenerate(OWNER, where, RegenerateRequest(background=True), soon()),
            here.chats.continue_reply(OWNER, where, ContinueRequest(background=True), soon()),
        ):
            async with aclosing(await begin) as reader:
                start = await until_text(reader)
            assert here.locks.held == {where}
            assert (await here.chats.stop(OWNER, str(start.message_id))).was_running
            assert not here.locks.held

    run(scenario())


def test_turns_that_run_are_listed_for_their_owner() -> None:
    async def scenario() -> None:
        here = world()
        first = answer_of(await read(here.chats.chat(OWNER, HI, soon())))
        where = first.conversation_id
        here.backend.reply, here.backend.is_endless = HELLO[:3], True
        more = ChatRequest(message="and?", conversation_id=where, background=True)
        long = ChatRequest(message="é" * 10_000, conversation_id=where, background=True)
        for begin, expected in (
            (here.chats.chat(OWNER, more, soon()), (first.message_id, "and?", None)),
            (here.chats.chat(OWNER, long, soon()), (first.message_id, f"{'é' * 500}…", None)),
            (here.chats.regenerate(OWNER, where, RegenerateRequest(), soon()), (first.parent_id, None, None)),
            (
                here.chats.continue_reply(OWNER, where, ContinueRequest(), soon()),
                (first.parent_id, None, first.message_id),
            ),
        ):
            async with aclosing(await begin) as reader:
                start = await until_text(reader)
                [turn] = here.chats.running(OWNER).turns
                assert (turn.message_id, turn.conversation_id) == (start.message_id, where)
                assert (turn.parent_id, turn.question, turn.continues) == expected
                assert turn.conversation == to_summary(await here.store.get(OWNER, where))
                assert here.chats.running("somebody").turns == []
            await here.chats.stop(OWNER, turn.message_id)
            await here.store.commit(await here.store.get(OWNER, where))
            conversation = await here.store.get(OWNER, where)
            await here.store.commit(replace(conversation, head_id=first.message_id))
            assert here.chats.running(OWNER).turns == []

    run(scenario())


def test_a_turn_that_nobody_reads_ends_and_is_committed() -> None:
    async def scenario() -> None:
        here = world()
        reader = await here.chats.chat(OWNER, IN_BACKGROUND, soon())  # it stalls: it never reads
        events = await read(here.chats.events(OWNER, reader.ids.message_id, after=0))
        response = answer_of(events)
        assert await here.branch(response.conversation_id) == ["hi", "Hello there"]
        assert [record.event async for record in reader] == events  # it was not cut off either

    run(scenario())


def test_the_events_of_a_turn_are_gone_with_its_conversation() -> None:
    async def scenario() -> None:
        here = world()
        answer = answer_of(await read(here.chats.chat(OWNER, HI, soon())))
        assert (await here.chats.stop(OWNER, answer.message_id)).reply == answer
        await here.store.delete(await here.store.get(OWNER, answer.conversation_id))
        with pytest.raises(TurnNotFound):
            await here.chats.events(OWNER, answer.message_id, 0)
        with pytest.raises(TurnNotFound):
            await here.chats.stop(OWNER, answer.message_id)

    run(scenario())


def test_events_after_one_that_a_turn_does_not_have_are_refused() -> None:
    async def scenario() -> None:
        here = world()
        answer = answer_of(await read(here.chats.chat(OWNER, HI, soon())))
        with pytest.raises(InvalidRequest, match="after"):
            await here.chats.events(OWNER, answer.message_id, 100)

    run(scenario())


def test_turns_of_another_owner_are_neither_read_nor_stopped() -> None:
    async def scenario() -> None:
        here = world(HELLO[:3], is_endless=True)
        async with aclosing(await here.chats.chat(OWNER, IN_BACKGROUND, soon())) as reader:
            message_id = str((await until_text(reader)).message_id)
        with pytest.raises(TurnNotFound):
            await here.chats.events("somebody", message_id, 0)
        with pytest.raises(TurnNotFound):
            await here.chats.stop("somebody", message_id)
        assert here.locks.held
        await here.chats.close()

    run(scenario())


def test_shutdown_commits_what_was_said_and_ends_each_stream_once() -> None:
    async def scenario() -> None:
        here = world(HELLO[:3], is_endless=True)
        readers = [await here.chats.chat(OWNER, request, soon()) for request in (HI, IN_BACKGROUND)]
        starts = [await until_text(reader) for reader in readers]
        await here.chats.close()
        for reader, start in zip(readers, starts, strict=True):
            (last,) = [record.event async for record in reader]
            assert isinstance(last, ChatResponse) and last.finish_reason == "interrupted"
            assert await here.branch(start.conversation_id) == ["hi", "Hello"]
        assert not here.locks.held
        with pytest.raises(ShuttingDown):
            await here.chats.chat(OWNER, HI, soon())

    run(scenario())


# Requests that are sent twice


def test_the_same_key_gives_the_same_turn_while_its_events_are_kept() -> None:
    async def scenario() -> None:
        here = world()
        first = await read(here.chats.chat(OWNER, HI, soon(), "key"))
        assert await read(here.chats.chat(OWNER, HI, soon(), "key")) == first
        assert len(here.backend.requests) == 1 and await here.count() == 1

    run(scenario())


def test_the_same_key_follows_a_running_turn_without_stopping_it() -> None:
    async def scenario() -> None:
        here = world(HELLO[:3], is_endless=True)
        first = await here.chats.chat(OWNER, HI, soon(), "key")
        await until_text(first)
        async with aclosing(await here.chats.chat(OWNER, HI, soon(), "key")) as second:
            await until_text(second)
            assert second.ids.message_id == first.ids.message_id
        assert here.locks.held
        await first.aclose()
        assert not here.locks.held

    run(scenario())


def test_requests_with_one_key_at_the_same_moment_begin_one_turn() -> None:
    async def scenario() -> None:
        here = world()
        answers = await asyncio.gather(
            *(read(here.chats.chat(OWNER, IN_BACKGROUND, soon(), "key")) for _ in range(50))
        )
        assert len({answer_of(events).message_id for events in answers}) == 1
        assert len(here.backend.requests) == 1 and await here.count() == 1

    run(scenario())


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_same_key_gives_the_stored_reply_when_the_events_are_forgotten(is_interrupted: bool) -> None:
    async def scenario() -> None:
        here = world(HELLO[:3] if is_interrupted else HELLO, is_endless=is_interrupted)
        reader = await here.chats.chat(OWNER, HI, soon(), "key")
        first = await until_text(reader)
        await reader.aclose()
        here.now_s[0] = 1_000_000.0
        start, thinking, text, done = await read(here.chats.chat(OWNER, HI, soon(), "key"))
        said = "Hello" if is_interrupted else "Hello there"
        assert (thinking, text) == (ThinkingEvent(text="Well"), DeltaEvent(text=said))
        assert isinstance(start, StartEvent) and isinstance(done, ChatResponse)
        known = {"prompt_tokens": None} if is_interrupted else {}
        assert start == first.model_copy(update=known)
        assert (done.response, done.message_id) == (said, first.message_id)
        assert done.finish_reason == ("interrupted" if is_interrupted else "stop")
        assert len(here.backend.requests) == 1

    run(scenario())


def test_the_same_key_gives_the_tool_calls_of_the_stored_reply() -> None:
    async def scenario() -> None:
        refs = [ToolCallRef(0, "call_1", "weather"), ToolCallRef(1, "call_2", "time")]
        calls = [Delta("r", text, 2, "tool_call", tool_call=ref) for ref in refs for text in ("{", "}")]
        here = world([HELLO[0], *calls, HELLO[-1]])
        first = answer_of(await read(here.chats.chat(OWNER, HI, soon(), "key")))
        here.now_s[0] = 1_000_000.0
        _, *events, done = await read(here.chats.chat(OWNER, HI, soon(), "key"))
        assert events == [
            ToolCallEvent(index=ref.index, id=ref.id, name=ref.name, arguments="{}") for ref in refs
        ]
        assert isinstance(done, ChatResponse) and done.tool_calls == first.tool_calls
        assert first.tool_calls is not None and len(first.tool_calls) == 2

    run(scenario())


def test_a_key_with_another_request_is_refused() -> None:
    async def scenario() -> None:
        here = world()
        await read(here.chats.chat(OWNER, HI, soon(), "key"))
        for other in (ChatRequest(message="ho"), ChatRequest(message="hi", temperature=0), IN_BACKGROUND):
            with pytest.raises(KeyReused):
                await here.chats.chat(OWNER, other, soon(), "key")
        await read(here.chats.chat("somebody", ChatRequest(message="ho"), soon(), "key"))

    run(scenario())


def test_equal_requests_have_equal_hashes_however_they_were_written() -> None:
    texts = (
        '{"message": "hi", "top_k": 3, "stream": true}',
        '{"stream":true,"top_k":3,"message":"hi","seed":null}',
    )
    first, second = (
        record_of(OWNER, "key", ChatRequest.model_validate_json(text), "conv_1") for text in texts
    )
    assert first.body_hash == second.body_hash
    assert first.message_id != second.message_id


@pytest.mark.parametrize(
    ("options", "error"),
    [({"deaths": [2]}, WorkerDied), ({"store_class": UnwritableStore}, StoreUnavailable)],
)
def test_a_turn_that_fails_frees_its_key(options: dict[str, Any], error: type[DomainError]) -> None:
    async def scenario() -> None:
        here = world(**options)
        with pytest.raises(error):
            await read(here.chats.chat(OWNER, HI, soon(), "key"))
        other = record_of(OWNER, "key", ChatRequest(message="ho"), "conv_1")
        assert await here.keys.claim(other) == other

    run(scenario())


def test_a_turn_that_is_stopped_before_it_says_anything_frees_its_key() -> None:
    async def scenario() -> None:
        here = world(HELLO[:1], is_endless=True)
        reader = await here.chats.chat(OWNER, HI, soon(), "key")
        await anext(reader)
        await reader.aclose()
        here.backend.reply, here.backend.is_endless = HELLO, False
        answer = answer_of(await read(here.chats.chat(OWNER, HI, soon(), "key")))
        assert answer.finish_reason == "stop" and await here.count() == 1

    run(scenario())


def test_a_key_whose_conversation_was_deleted_begins_another_turn() -> None:
    async def scenario() -> None:
        here = world()
        first = answer_of(await read(here.chats.chat(OWNER, HI, soon(), "key")))
        await here.store.delete(await here.store.get(OWNER, first.conversation_id))
        second = answer_of(await read(here.chats.chat(OWNER, HI, soon(), "key")))
        assert second.conversation_id != first.conversation_id
        assert await read(here.chats.chat(OWNER, HI, soon(), "key")) != []
        assert len(here.backend.requests) == 2

    run(scenario())


def test_a_key_of_a_process_that_died_is_free_and_one_of_a_living_process_is_busy() -> None:
    async def scenario() -> None:
        here = world()
        request = ChatRequest(message="hi", conversation_id="conv_1")
        await here.store.commit(Conversation(owner=OWNER, id="conv_1"))
        elsewhere = record_of(OWNER, "key", request, "conv_1")
        await here.keys.claim(elsewhere)
        async with here.locks.hold("conv_1"):
            with pytest.raises(ConversationBusy):
                await here.chats.chat(OWNER, request, soon(), "key")
        answer = answer_of(await read(here.chats.chat(OWNER, request, soon(), "key")))
        assert answer.message_id != elsewhere.message_id

    run(scenario())


@pytest.mark.parametrize("conversation_id", [None, "conv_1"])
def test_a_key_that_two_processes_claim_before_either_has_its_lock_begins_one_turn(
    conversation_id: str | None,
) -> None:
    async def scenario() -> None:
        one = world()
        other = world(beside=one)
        request = ChatRequest(message="hi", conversation_id=conversation_id)
        if conversation_id is not None:
            await one.store.commit(Conversation(owner=OWNER, id=conversation_id))
        # Neither call lets the task of its turn begin: nothing in them waits.
        readers = [await each.chats.chat(OWNER, request, soon(), "key") for each in (one, other)]
        answers = await asyncio.gather(*map(read_all, readers), return_exceptions=True)
        (refused,) = [each for each in answers if isinstance(each, BaseException)]
        assert isinstance(refused, ConversationBusy)
        assert len(one.backend.requests) + len(other.backend.requests) == 1
        (answered,) = [answer_of(each) for each in answers if not isinstance(each, BaseException)]
        assert await one.branch(answered.conversation_id) == ["hi", "Hello there"]
        for each in (one, other):
            again = answer_of(await read(each.chats.chat(OWNER, request, soon(), "key")))
            assert again.message_id == answered.message_id

    run(scenario())


def test_a_key_is_free_after_a_day() -> None:
    async def scenario() -> None:
        here = world()
        old = record_of(OWNER, "key", ChatRequest(message="ho"), "conv_1")
        await here.keys.claim(replace(old, created_at=old.created_at - KEY_LIFETIME))
        assert answer_of(await read(here.chats.chat(OWNER, HI, soon(), "key"))).message_count == 2

    run(scenario())
