"""A turn in the background whose server dies ends as interrupted, for all other servers on the database."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.core.config import Settings
from app.core.errors import ConversationBusy, TurnElsewhere, TurnNotFound, WorkerDied
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.conversation import Conversation, new_id, text_message
from app.models.schemas import ChatRequest, ChatResponse, LoadProgress, RegenerateRequest, StartEvent
from app.models.storage.sql.database import Database
from app.models.storage.sql.sql_storage import SqlStorage
from app.models.storage.sql.tables import open_turns, turn_leases
from app.models.storage.store import PageRequest
from app.models.turns.turn_log import EventReader
from app.models.turns.turn_registry import TurnRegistry
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO, StandInBackend, StandInModels
from tests.models.storage.conftest import opened
from tests.waiting import LIMIT_S, until

IN_BACKGROUND = ChatRequest(message="hi", background=True)


@dataclass
class Server:
    """What a server has below HTTP."""

    models: StandInModels
    backend: StandInBackend
    storage: SqlStorage
    chats: ChatModelManager

    async def branch(self, conversation_id: str | None) -> list[tuple[str, str | None]]:
        """The text of each message, and the reason for which each reply ended."""
        conversation = await self.storage.store.get(OWNER, str(conversation_id))
        messages = await self.storage.store.branch(conversation, conversation.head_id)
        return [(each.content, None if each.reply is None else each.reply.finish_reason) for each in messages]


@asynccontextmanager
async def server(url: str) -> AsyncIterator[Server]:
    backend, storage = StandInBackend(reply=HELLO), SqlStorage(url)
    await storage.open()
    models = StandInModels(backend)
    generator = ChatGenerator(models)
    chats = ChatModelManager(
        Settings(_env_file=None), storage.store, storage.locks, generator, TurnRegistry(), storage.key_records
    )
    try:
        yield Server(models, backend, storage, chats)
    finally:
        await chats.close()
        await storage.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, LIMIT_S))


@asynccontextmanager
async def servers(url: str) -> AsyncIterator[tuple[Server, Server, Database]]:
    """Two servers and their database. The first one never ends a reply."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(opened(url))
        first, second = [await stack.enter_async_context(server(url)) for _ in "12"]
        first.backend.is_endless = True
        first.backend.reply = HELLO[:1]
        yield first, second, database


async def begin(server: Server, request: ChatRequest = IN_BACKGROUND, key: str | None = None) -> StartEvent:
    async with aclosing(await server.chats.chat(OWNER, request, soon(), key)) as reader:
        async for record in reader:
            if isinstance(record.event, StartEvent):
                return record.event
    raise AssertionError("the turn did not begin")


async def die(database: Database) -> None:
    """Lets the leases expire, as those of a machine that is gone: their holders cannot renew them."""
    async with database.writing() as connection:
        await connection.execute(
            update(turn_leases).values(holder="of a machine that is gone", expires_at=1.0)
        )


async def count(database: Database) -> int:
    async with database.reading() as connection:
        return await connection.scalar(select(func.count()).select_from(open_turns)) or 0


async def events_of(reader: EventReader) -> list[object]:
    async with aclosing(reader):
        return [record.event async for record in reader]


def test_the_turn_of_a_dead_server_has_ended_as_interrupted(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            start = await begin(first)
            await die(database)
            for _ in "12":
                reader = await second.chats.events(OWNER, str(start.message_id), 0)
                began, ended = await events_of(reader)
                assert isinstance(began, StartEvent)
                assert (began.message_id, began.parent_id) == (start.message_id, start.parent_id)
                assert isinstance(ended, ChatResponse)
                assert (ended.response, ended.finish_reason) == ("", "interrupted")
            assert await second.branch(start.conversation_id) == [("hi", None), ("", "interrupted")]
            rest = await second.chats.events(OWNER, str(start.message_id), 200)
            assert await events_of(rest) == [ended], "the end follows events that are lost"
            stopped = await second.chats.stop(OWNER, str(start.message_id))
            assert not stopped.was_running and stopped.reply == ended
            with pytest.raises(TurnNotFound):
                await second.chats.events("somebody", str(start.message_id), 0)

    run(scenario())


def test_servers_that_store_it_refuse_no_request(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database), server(database_url) as third:
            for _ in range(5):
                where = (await begin(second)).conversation_id
                await until(lambda: not second.chats.running(OWNER).turns, "the first turn to end")
                await begin(first, ChatRequest(message="more", conversation_id=where, background=True))
                await die(database)
                again = ChatRequest(message="again", conversation_id=where)
                (*_, done), *_ = await asyncio.gather(
                    read(second.chats.chat(OWNER, again, soon())),
                    second.storage.settle_turns(),
                    third.storage.settle_turns(),
                )
                assert isinstance(done, ChatResponse)

    run(scenario())


def test_it_can_be_answered_again(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            start = await begin(first)
            await die(database)
            await second.storage.settle_turns()
            request = RegenerateRequest(message_id=start.message_id)
            again = second.chats.regenerate(OWNER, str(start.conversation_id), request, soon())
            assert isinstance((await read(again))[-1], ChatResponse)
            assert await second.branch(start.conversation_id) == [("hi", None), ("Hello there", "stop")]
            assert await count(database) == 0

    run(scenario())


def test_a_later_turn_follows_it(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            answered = (await read(second.chats.chat(OWNER, IN_BACKGROUND, soon())))[-1]
            assert isinstance(answered, ChatResponse)
            conversation_id = answered.conversation_id
            request = ChatRequest(message="and?", conversation_id=conversation_id, background=True)
            await begin(first, request)
            await die(database)
            later = ChatRequest(message="so?", conversation_id=conversation_id)
            await read(second.chats.chat(OWNER, later, soon()))
            texts = [text for text, _ in await second.branch(conversation_id)]
            assert texts == ["hi", "Hello there", "and?", "", "so?", "Hello there"]

    run(scenario())


def test_its_conversation_is_listed_when_a_server_has_looked(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            start = await begin(first)
            await second.storage.settle_turns()
            page = await second.storage.store.page(OWNER, PageRequest(limit=10))
            assert page.total == 0, "the turn runs"
            await die(database)
            await second.storage.settle_turns()
            page = await second.storage.store.page(OWNER, PageRequest(limit=10))
            assert [each.id for each in page.conversations] == [start.conversation_id]

    run(scenario())


def test_a_repeated_request_gets_the_interrupted_reply(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            start = await begin(first, key="once")
            with pytest.raises(ConversationBusy):
                await second.chats.chat(OWNER, IN_BACKGROUND, soon(), "once")
            await die(database)
            *_, ended = await read(second.chats.chat(OWNER, IN_BACKGROUND, soon(), "once"))
            assert isinstance(ended, ChatResponse)
            assert (ended.message_id, ended.finish_reason) == (start.message_id, "interrupted")
            assert second.backend.requests == []

    run(scenario())


def test_a_turn_whose_model_was_loading_ends_as_interrupted(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            first.models.is_loading = True
            reader = await first.chats.chat(OWNER, IN_BACKGROUND, soon())
            assert isinstance((await anext(reader)).event, LoadProgress), "it is acknowledged"
            elsewhere = await second.chats.snapshot(OWNER, reader.ids.message_id)
            assert (elsewhere.ids, elsewhere.events, elsewhere.has_ended) == (reader.ids, (), False)
            await die(database)
            *_, ended = await events_of(await second.chats.events(OWNER, reader.ids.message_id, 0))
            assert isinstance(ended, ChatResponse)
            assert (ended.model_name, ended.response, ended.finish_reason) == ("stand-in", "", "interrupted")
            assert await second.branch(reader.ids.conversation_id) == [("hi", None), ("", "interrupted")]

    run(scenario())


@pytest.mark.parametrize("is_loading", [False, True])
def test_a_server_that_stops_keeps_a_turn_that_has_said_nothing(is_loading: bool, database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, _):
            first.models.is_loading = is_loading
            reader = await first.chats.chat(OWNER, IN_BACKGROUND, soon(), "once")
            async for record in reader:
                if is_loading or isinstance(record.event, StartEvent):
                    break
            await first.chats.close()
            *_, ended = await read(second.chats.chat(OWNER, IN_BACKGROUND, soon(), "once"))
            assert isinstance(ended, ChatResponse)
            assert (ended.message_id, ended.finish_reason) == (reader.ids.message_id, "interrupted")
            assert await second.branch(reader.ids.conversation_id) == [("hi", None), ("", "interrupted")]

    run(scenario())


def test_a_turn_that_is_stopped_while_its_model_loads_leaves_nothing(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, _, database):
            first.models.is_loading = True
            reader = await first.chats.chat(OWNER, IN_BACKGROUND, soon())
            await anext(reader)
            assert await count(database) == 1
            assert (await first.chats.stop(OWNER, reader.ids.message_id)).reply is None
            assert await count(database) == 0

    run(scenario())


def test_a_request_that_reaches_two_servers_at_once_gets_the_chosen_id(database_url: str) -> None:
    async def answer(server: Server, key: str, chosen_id: str) -> str | None:
        try:
            reader = await server.chats.chat(OWNER, IN_BACKGROUND, soon(), key, chosen_id=chosen_id)
            await events_of(reader)
            return reader.ids.conversation_id
        except ConversationBusy:
            return None

    async def scenario() -> None:
        async with servers(database_url) as (first, second, _):
            first.backend.is_endless, first.backend.reply = False, HELLO
            for key in "0123456789":
                chosen = new_id("conv")
                ids = await asyncio.gather(*[answer(each, key, chosen) for each in (first, second)])
                assert {*ids} - {None} == {chosen}

    run(scenario())


def test_a_turn_that_runs_elsewhere_is_followed_to_its_end(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            message_id = str((await begin(first)).message_id)
            async with aclosing(await second.chats.events(OWNER, message_id, 0)) as reader:
                start = (await anext(reader)).event
                assert isinstance(start, StartEvent) and start.message_id == message_id
                following = asyncio.ensure_future(anext(reader))
                assert (await second.chats.snapshot(OWNER, message_id)).events == (start,)
                assert not following.done()
                await die(database)
                ended = (await following).event
            assert isinstance(ended, ChatResponse) and ended.finish_reason == "interrupted"

    run(scenario())


def test_a_turn_that_runs_elsewhere_can_be_asked_for_here_alone(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, _):
            message_id = str((await begin(first)).message_id)
            with pytest.raises(TurnElsewhere):
                await second.chats.stop(OWNER, message_id)
            with pytest.raises(TurnNotFound):
                await second.chats.stop(OWNER, message_id, is_here=True)
            with pytest.raises(TurnNotFound):
                await second.chats.events(OWNER, message_id, 0, is_here=True)

    run(scenario())


def test_a_turn_that_fails_elsewhere_ends_its_followers(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, _):
            message_id = str((await begin(first)).message_id)
            async with aclosing(await second.chats.events(OWNER, message_id, 1)) as reader:
                following = asyncio.ensure_future(anext(reader))
                await first.chats.stop(OWNER, message_id)
                with pytest.raises(TurnNotFound):
                    await following

    run(scenario())


def test_a_turn_that_has_ended_elsewhere_is_found_until_the_next_one(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            done = (await read(second.chats.chat(OWNER, IN_BACKGROUND, soon())))[-1]
            assert isinstance(done, ChatResponse)
            found = await events_of(await first.chats.events(OWNER, done.message_id, 1))
            assert found[-1] == done
            again = RegenerateRequest(message_id=done.message_id)
            await read(second.chats.regenerate(OWNER, done.conversation_id, again, soon()))
            with pytest.raises(TurnNotFound):
                await first.chats.events(OWNER, done.message_id, 1)
            assert await count(database) == 0

    run(scenario())


def test_a_server_that_has_lost_its_lock_does_not_forget_the_turn_of_another(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (first, second, database):
            conversation = Conversation(owner=OWNER)
            async with first.storage.locks.hold(conversation.id):
                await die(database)
                async with second.storage.locks.hold(conversation.id):
                    await second.storage.store.begin_turn(conversation, [text_message("user", "hi")])
                    with pytest.raises(ConversationBusy):
                        await first.storage.store.forget_turn(conversation)
                    assert await count(database) == 1

    run(scenario())


def test_a_turn_that_has_failed_leaves_nothing(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as (_, second, database):
            second.backend.deaths = [2]
            with pytest.raises(WorkerDied):
                await read(second.chats.chat(OWNER, IN_BACKGROUND, soon()))
            assert await count(database) == 0

    run(scenario())
