"""Requests that are sent twice with one key, on a stand-in engine."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from app.core.errors import ConversationBusy, DomainError, KeyReused, StoreUnavailable, WorkerDied
from app.engine.ipc.messages import Delta, ToolCallRef
from app.models.conversation import Conversation, Message
from app.models.schemas import ChatRequest, ChatResponse, DeltaEvent, StartEvent, ThinkingEvent, ToolCallEvent
from app.models.storage.key_records import KEY_LIFETIME
from app.models.storage.memory_store import MemoryStore
from app.models.turns.keyed_turns import record_of
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO
from tests.models.turn_world import HI, IN_BACKGROUND, answer_of, read_all, run, until_text, world


class UnwritableStore(MemoryStore):
    """A store that is full."""

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        raise StoreUnavailable("The disk is full.")


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
