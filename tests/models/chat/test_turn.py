import asyncio
from contextlib import aclosing

import pytest

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull, NothingToDo
from app.engine.ipc.messages import ChatMessage
from app.models.chat.generation import ChatGenerator
from app.models.chat.store import ConversationStore, MemoryStore
from app.models.chat.turn import Turn, TurnRunner
from app.models.conversation import Conversation, Message
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    RegenerateRequest,
    StartEvent,
)
from tests.models.conftest import collect
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

ASKED = Conversation(system_prompt="be brief").with_message(Message("user", "hi"))
ANSWERED = ASKED.with_message(Message("assistant", "Oh", model_name="old"))


class SlowStore(MemoryStore):
    """A store whose `put` waits until it is released, as a slow database's would."""

    def __init__(self) -> None:
        super().__init__(max_conversations=10, ttl_s=60, held=set())
        self.writing = asyncio.Event()
        self.released = asyncio.Event()

    async def put(self, conversation: Conversation) -> None:
        self.writing.set()
        await self.released.wait()
        await super().put(conversation)


def memory_store() -> MemoryStore:
    return MemoryStore(max_conversations=10, ttl_s=60, held=set())


def runner(
    store: ConversationStore, models: StandInModels | None = None, settings: Settings | None = None
) -> TurnRunner:
    models = models or StandInModels(StandInBackend(reply=HELLO))
    return TurnRunner(settings or Settings(_env_file=None), store, ChatGenerator(models))


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.messages]


def test_turn_for_message_ends_its_history_with_the_message() -> None:
    turn = Turn.for_message(ANSWERED, ChatRequest(message="more", model_name="m", system_prompt=""))
    assert contents(turn.history) == ["hi", "Oh", "more"]
    assert (turn.model_name, turn.history.system_prompt, turn.prefix) == ("m", "", ())


def test_turn_for_regeneration_replaces_the_reply() -> None:
    turn = Turn.for_regeneration(ANSWERED, RegenerateRequest())
    assert (contents(turn.history), turn.prefix) == (["hi"], ())
    assert turn.size_bytes == ANSWERED.size_bytes


def test_turn_for_continuation_begins_with_the_reply() -> None:
    turn = Turn.for_continuation(ANSWERED, ContinueRequest())
    assert [message.content for message in turn.messages] == ["hi", "Oh"]
    assert contents(turn.history) == ["hi"]


def test_turn_raises_if_no_reply_can_be_replaced_or_extended() -> None:
    with pytest.raises(NothingToDo):
        Turn.for_regeneration(ASKED, RegenerateRequest())
    with pytest.raises(NothingToDo):
        Turn.for_continuation(ASKED, ContinueRequest())


def test_run_commits_message_and_reply_before_it_reports_the_response() -> None:
    async def scenario() -> None:
        store = memory_store()
        turn = Turn.for_message(ANSWERED, ChatRequest(message="more"))
        async with aclosing(runner(store).run(turn, Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, ChatResponse):
                    assert contents(await store.get(ANSWERED.id)) == ["hi", "Oh", "more", "Hello there"]
                    assert (event.message_count, event.omitted_messages) == (4, 1)
                elif isinstance(event, StartEvent):
                    assert (event.conversation_id, event.message_id) == (ANSWERED.id, turn.message_id)
                    assert (await store.page(limit=1, offset=0)).total == 0
        assert contents(ANSWERED) == ["hi", "Oh"]

    asyncio.run(scenario())


def test_run_sends_the_system_prompt_the_last_turns_and_the_reply_to_continue() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    longer = ANSWERED.with_message(Message("user", "and?")).with_message(Message("assistant", "So"))
    turn = Turn.for_continuation(longer, ContinueRequest(think=True))
    settings = Settings(max_conversation_length=1, _env_file=None)
    run = runner(memory_store(), models, settings).run(turn, Deadline.after(60))
    *_, response = asyncio.run(collect(run))
    (sent,) = models.backend.requests
    assert sent.messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "and?"),
        ChatMessage("assistant", "So"),
    )
    assert (sent.continue_final_message, sent.think) == (True, True)
    assert isinstance(response, ChatResponse)
    assert (response.response, response.omitted_messages) == ("SoHello there", 3)


def test_run_refuses_a_conversation_that_would_be_too_large() -> None:
    turn = Turn.for_message(ANSWERED, ChatRequest(message="x" * 1_000))
    settings = Settings(max_conversation_bytes=1_000, _env_file=None)
    run = runner(memory_store(), settings=settings).run(turn, Deadline.after(60))
    with pytest.raises(ConversationFull, match="1,000 bytes"):
        asyncio.run(collect(run))


def test_run_keeps_the_text_so_far_when_it_is_left_early() -> None:
    async def scenario() -> None:
        store = memory_store()
        turn = Turn.for_continuation(ANSWERED, ContinueRequest())
        async with aclosing(runner(store).run(turn, Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    break
        kept = (await store.get(ANSWERED.id)).last_reply()
        assert (kept.content, kept.finish_reason) == ("OhHello", "interrupted")
        assert (kept.model_name, kept.model_id) == ("stand-in", "tests/stand-in")

    asyncio.run(scenario())


def test_run_stores_nothing_when_it_is_left_before_the_first_delta() -> None:
    async def scenario() -> None:
        store = memory_store()
        turn = Turn.for_message(ANSWERED, ChatRequest(message="more"))
        async with aclosing(runner(store).run(turn, Deadline.after(60))) as events:
            async for event in events:
                if isinstance(event, StartEvent):
                    break
        assert (await store.page(limit=1, offset=0)).total == 0

    asyncio.run(scenario())


def test_run_finishes_its_commit_when_the_client_leaves_during_it() -> None:
    async def scenario() -> None:
        store = SlowStore()
        turn = Turn.for_message(ANSWERED, ChatRequest(message="more"))
        reading = asyncio.create_task(collect(runner(store).run(turn, Deadline.after(60))))
        await store.writing.wait()
        for _ in range(2):  # the client leaves, and then the server shuts down
            reading.cancel()
            await asyncio.sleep(0)
        assert not reading.done()
        store.released.set()
        with pytest.raises(asyncio.CancelledError):
            await reading
        reply = (await store.get(ANSWERED.id)).last_reply()
        assert (reply.content, reply.finish_reason) == ("Hello there", "stop")

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))
