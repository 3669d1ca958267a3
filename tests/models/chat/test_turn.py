import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace

import pytest

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull
from app.engine.ipc.messages import ChatMessage
from app.models.chat.generation import ChatGenerator
from app.models.chat.turn import Turn, TurnRunner
from app.models.conversation import Conversation, Message, chained, text_message
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    StartEvent,
    TextPart,
    ThinkingPart,
)
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import ConversationStore, PageRequest
from tests.models.conftest import collect
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

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
    return Turn(BEFORE, ChatRequest(message=text), None, (*history, message), new_message=message)


def continuing() -> Turn:
    return Turn(BEFORE, ContinueRequest(think=True), None, (ASKED,), continues=ANSWERED)


async def branch(store: ConversationStore) -> list[Message]:
    conversation = await store.get(BEFORE.owner, BEFORE.id)
    return list(await store.branch(conversation, conversation.head_id))


def test_run_commits_message_and_reply_before_it_reports_the_response() -> None:
    async def scenario() -> None:
        store = await filled_store()
        turn = asking("more")
        async with aclosing(runner(store).run(turn, Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, ChatResponse):
                    kept = await branch(store)
                    assert [message.content for message in kept] == ["hi", "Oh", "more", "Hello there"]
                    assert (event.message_count, event.omitted_messages) == (4, 1)
                    assert (event.message_id, event.parent_id) == (kept[-1].id, kept[-2].id)
                elif isinstance(event, StartEvent):
                    assert (event.conversation_id, event.message_id) == (BEFORE.id, turn.message_id)
                    assert event.parent_id == turn.parent.id
                    assert len(await branch(store)) == 2

    asyncio.run(scenario())


def test_run_keeps_the_thinking_and_the_facts_of_a_reply() -> None:
    async def scenario() -> None:
        store = await filled_store()
        *_, response = await collect(runner(store).run(asking("more"), Deadline.after(60)))
        reply = (await branch(store))[-1]
        assert reply.parts == (ThinkingPart(text="Well"), TextPart(text="Hello there"))
        assert isinstance(response, ChatResponse) and reply.reply is not None
        assert (response.thinking, response.response) == ("Well", "Hello there")
        assert (reply.reply.usage, reply.reply.parameters) == (response.usage, response.parameters)
        assert reply.reply.omitted_messages == response.omitted_messages

    asyncio.run(scenario())


def test_run_sends_the_system_prompt_the_history_and_the_reply_to_continue() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    deep = replace(ASKED, depth=3)
    turn = replace(continuing(), history=(deep,))
    *_, response = asyncio.run(collect(runner(memory_store(), models).run(turn, Deadline.after(60))))
    (sent,) = models.backend.requests
    assert sent.messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "Oh"),
    )
    assert (sent.continue_final_message, sent.think, sent.scope) == (True, True, "tests")
    assert isinstance(response, ChatResponse)
    assert (response.response, response.omitted_messages) == ("OhHello there", 3)


def test_run_joins_user_messages_that_follow_each_other() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    asyncio.run(collect(runner(memory_store(), models).run(asking("more", (ASKED,)), Deadline.after(60))))
    (sent,) = models.backend.requests
    assert sent.messages is not None
    assert sent.messages[1:] == (ChatMessage("user", "hi\n\nmore"),)


def test_run_refuses_a_conversation_that_would_be_too_large() -> None:
    settings = Settings(max_conversation_bytes=1_000, _env_file=None)
    run = runner(memory_store(), settings=settings).run(asking("x" * 1_000), Deadline.after(60))
    with pytest.raises(ConversationFull, match="1,000 bytes"):
        asyncio.run(collect(run))


def test_run_keeps_the_text_so_far_beside_the_old_reply_when_it_is_left_early() -> None:
    async def scenario() -> None:
        store = await filled_store()
        async with aclosing(runner(store).run(continuing(), Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    break
        kept = (await branch(store))[-1]
        assert kept.reply is not None
        assert (kept.content, kept.reply.finish_reason) == ("OhHello", "interrupted")
        assert (kept.reply.model_name, kept.reply.model_id) == ("stand-in", "tests/stand-in")
        assert kept.reply.parameters is not None
        assert ANSWERED in await store.messages(BEFORE)

    asyncio.run(scenario())


def test_run_stores_nothing_when_it_is_left_before_the_first_delta() -> None:
    async def scenario() -> None:
        store = memory_store()
        async with aclosing(runner(store).run(asking("more"), Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, StartEvent):
                    break
        assert (await store.page(BEFORE.owner, ALL)).total == 0

    asyncio.run(scenario())


def test_run_finishes_its_commit_when_the_client_leaves_during_it() -> None:
    async def scenario() -> None:
        store = SlowStore()
        reading = asyncio.create_task(collect(runner(store).run(asking("more"), Deadline.after(60))))
        await store.writing.wait()
        for _ in range(2):  # the client leaves, and then the server shuts down
            reading.cancel()
            await asyncio.sleep(0)
        assert not reading.done()
        store.released.set()
        with pytest.raises(asyncio.CancelledError):
            await reading
        *_, reply = await store.messages(BEFORE)
        assert reply.reply is not None
        assert (reply.content, reply.reply.finish_reason) == ("Hello there", "stop")

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))
