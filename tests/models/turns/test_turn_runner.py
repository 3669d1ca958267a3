import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull
from app.engine.ipc.messages import ChatMessage
from app.models.chat.generation import ChatGenerator
from app.models.conversation import Conversation, Message, chained, text_message
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
)
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import ConversationStore, PageRequest
from app.models.turns.turn import Turn
from app.models.turns.turn_log import TurnEvent, TurnLog
from app.models.turns.turn_registry import TurnReader
from app.models.turns.turn_runner import TurnRunner
from tests.models.stand_in import HELLO, LOADING, StandInBackend, StandInModels

ASKED, ANSWERED = HISTORY = chained((text_message("user", "hi"), text_message("assistant", "Oh")))
BEFORE = Conversation(owner="tests", system_prompt="be brief").with_messages(*HISTORY)
ALL = PageRequest(limit=10)


class SlowStore(MemoryStore):
    """A store whose `commit` waits until it is released, as a slow database's would."""

    def __init__(self) -> None:
        super().__init__(max_conversations=10, ttl_s=60, held=set())
        self.writing = asyncio.Event()
        self.released = asyncio.Event()

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        self.writing.set()
        await self.released.wait()
        await super().commit(conversation, new_messages)


def memory_store() -> MemoryStore:
    return MemoryStore(max_conversations=10, ttl_s=60, held=set())


async def filled_store() -> MemoryStore:
    store = memory_store()
    await store.commit(BEFORE, HISTORY)
    return store


def runner(
    store: ConversationStore, models: StandInModels | None = None, settings: Settings | None = None
) -> TurnRunner:
    models = models or StandInModels(StandInBackend(reply=HELLO))
    return TurnRunner(settings or Settings(_env_file=None), store, ChatGenerator(models))


def asking(text: str, history: tuple[Message, ...] = HISTORY) -> Turn:
    """A turn that answers a new message."""
    message = text_message("user", text).below(history[-1])
    return Turn(BEFORE, ChatRequest(message=text), None, (*history, message), new_messages=(message,))


def continuing() -> Turn:
    return Turn(BEFORE, ContinueRequest(think=True), None, (ASKED,), continues=ANSWERED)


def run_alone(
    store: ConversationStore,
    turn: Turn,
    models: StandInModels | None = None,
    settings: Settings | None = None,
) -> ChatResponse:
    return asyncio.run(runner(store, models, settings).run(turn, TurnLog("msg_1"), Deadline.after(60)))


async def branch(store: ConversationStore) -> list[Message]:
    conversation = await store.get(BEFORE.owner, BEFORE.id)
    return list(await store.branch(conversation, conversation.head_id))


async def stopped_at(run: Coroutine[Any, Any, ChatResponse], log: TurnLog, kind: type[TurnEvent]) -> Any:
    """The result of a turn, or its error, that is stopped when it has recorded an event of a kind."""
    running = asyncio.create_task(run)
    record = await log.next(0)
    while record is not None and not isinstance(record.event, kind):
        record = await log.next(record.id)
    running.cancel()
    return (await asyncio.gather(running, return_exceptions=True))[0]


def test_run_commits_message_and_reply_before_it_returns_the_response() -> None:
    async def scenario() -> None:
        store, log, turn = await filled_store(), TurnLog("msg_reply"), asking("more")
        response = await runner(store).run(turn, log, Deadline.after(60))
        kept = await branch(store)
        assert [message.content for message in kept] == ["hi", "Oh", "more", "Hello there"]
        assert (response.message_count, response.omitted_messages) == (4, 1)
        assert (response.message_id, response.parent_id) == ("msg_reply", turn.parent.id)
        assert (kept[-1].id, kept[-1].parent_id) == ("msg_reply", turn.parent.id)

    asyncio.run(scenario())


def test_run_records_ids_and_texts() -> None:
    async def scenario() -> None:
        log, turn = TurnLog("msg_reply"), asking("more")
        log.finish(await runner(memory_store()).run(turn, log, Deadline.after(60)))
        loading, start, thinking, text, done = [record.event async for record in TurnReader(log)]
        assert isinstance(start, StartEvent)
        assert (start.conversation_id, start.message_id) == (BEFORE.id, "msg_reply")
        assert start.parent_id == turn.parent.id
        assert (loading, thinking, text) == (
            LOADING,
            ThinkingEvent(text="Well"),
            DeltaEvent(text="Hello there"),
        )
        assert done == log.response

    asyncio.run(scenario())


def test_run_keeps_the_thinking_and_the_facts_of_a_reply() -> None:
    async def scenario() -> None:
        store = await filled_store()
        response = await runner(store).run(asking("more"), TurnLog("msg_1"), Deadline.after(60))
        reply = (await branch(store))[-1]
        assert reply.parts == (ThinkingPart(text="Well"), TextPart(text="Hello there"))
        assert reply.reply is not None
        assert (response.thinking, response.response) == ("Well", "Hello there")
        assert (reply.reply.usage, reply.reply.parameters) == (response.usage, response.parameters)
        assert reply.reply.omitted_messages == response.omitted_messages

    asyncio.run(scenario())


def test_run_sends_the_system_prompt_the_history_and_the_reply_to_continue() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    deep = replace(ASKED, depth=3)
    turn = replace(continuing(), history=(deep,))
    response = run_alone(memory_store(), turn, models)
    (sent,) = models.backend.requests
    assert sent.messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "Oh"),
    )
    assert (sent.continue_final_message, sent.think, sent.scope) == (True, True, "tests")
    assert (response.response, response.omitted_messages) == ("OhHello there", 3)


def test_run_joins_user_messages_that_follow_each_other() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    run_alone(memory_store(), asking("more", (ASKED,)), models)
    (sent,) = models.backend.requests
    assert sent.messages is not None
    assert sent.messages[1:] == (ChatMessage("user", "hi\n\nmore"),)


def test_run_refuses_a_conversation_that_would_be_too_large() -> None:
    settings = Settings(max_conversation_bytes=1_000, _env_file=None)
    with pytest.raises(ConversationFull, match="1,000 bytes"):
        run_alone(memory_store(), asking("x" * 1_000), settings=settings)


def test_run_returns_the_text_so_far_beside_the_old_reply_when_it_is_stopped() -> None:
    async def scenario() -> None:
        store, log = await filled_store(), TurnLog("msg_1")
        models = StandInModels(StandInBackend(reply=HELLO[:3], is_endless=True))
        run = runner(store, models).run(continuing(), log, Deadline.after(60))
        response = await stopped_at(run, log, DeltaEvent)
        assert isinstance(response, ChatResponse)
        assert (response.response, response.finish_reason) == ("OhHello", "interrupted")
        assert (response.usage, response.timings, response.generation_time) == (None, None, None)
        kept = (await branch(store))[-1]
        assert kept.reply is not None
        assert (kept.content, kept.reply.finish_reason) == ("OhHello", "interrupted")
        assert (kept.reply.model_name, kept.reply.model_id) == ("stand-in", "tests/stand-in")
        assert kept.reply.parameters is not None
        assert ANSWERED in await store.messages(BEFORE)
        assert models.returned == 1

    asyncio.run(scenario())


def test_run_stores_nothing_when_it_is_stopped_before_the_first_text() -> None:
    async def scenario() -> None:
        store, log = memory_store(), TurnLog("msg_1")
        models = StandInModels(StandInBackend(reply=HELLO[:1], is_endless=True))
        run = runner(store, models).run(asking("more"), log, Deadline.after(60))
        assert isinstance(await stopped_at(run, log, StartEvent), asyncio.CancelledError)
        assert (await store.page(BEFORE.owner, ALL)).total == 0

    asyncio.run(scenario())


def test_run_finishes_its_commit_when_it_is_stopped_during_it() -> None:
    async def scenario() -> None:
        store = SlowStore()
        run = runner(store).run(asking("more"), TurnLog("msg_1"), Deadline.after(60))
        running = asyncio.create_task(run)
        await store.writing.wait()
        for _ in range(2):  # the client leaves, and then the server shuts down
            running.cancel()
            await asyncio.sleep(0)
        assert not running.done()
        store.released.set()
        assert (await running).finish_reason == "stop"
        *_, reply = await store.messages(BEFORE)
        assert reply.reply is not None
        assert (reply.content, reply.reply.finish_reason) == ("Hello there", "stop")

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))
