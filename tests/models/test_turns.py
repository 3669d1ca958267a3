"""Turns that outlive their readers, on a stand-in engine."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from app.core.errors import InvalidRequest, ShuttingDown, TurnNotFound
from app.models.chat.transcript import to_summary
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    EditRequest,
    RegenerateRequest,
    ThinkingEvent,
)
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO
from tests.models.turn_world import HI, IN_BACKGROUND, answer_of, run, until_text, world


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
