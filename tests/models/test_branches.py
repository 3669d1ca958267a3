"""Messages of stored conversations: added, read, and removed without a reply."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.core.config import Settings
from app.core.errors import ConversationFull, ConversationNotFound, InvalidRequest, MessageNotFound
from app.models.branches import ConversationBranches, StoredBranch
from app.models.conversation import Conversation, Message, ReplyFacts, chained
from app.models.schemas import InputMessage, TextPart, ThinkingPart, ToolCallPart, ToolResultPart
from app.models.storage.memory_store import MemoryStore
from app.models.storage.turn_locks import LocalTurnLocks
from tests.models.conftest import OWNER

CALL = ToolCallPart(id="call_1", name="weather", arguments="{}")
ITEMS = [
    InputMessage(role="user", content="hi"),
    InputMessage(role="assistant", content="Let me see.", thinking="Hm", tool_calls=[CALL]),
    InputMessage(role="tool", tool_call_id="call_1", content="Rain."),
    InputMessage(role="tool", tool_call_id="call_2", content="Late."),
]


def branches(**settings: Any) -> tuple[ConversationBranches, MemoryStore]:
    locks = LocalTurnLocks()
    store = MemoryStore(max_conversations=10, ttl_s=60, held=locks.held)
    return ConversationBranches(Settings(_env_file=None, **settings), store, locks), store


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def texts(branch: StoredBranch) -> list[str]:
    return [message.content for message in branch.messages]


def test_begin_stores_messages_with_their_parts() -> None:
    async def scenario() -> None:
        service, _ = branches()
        made = await service.begin(OWNER, "Be brief.", ITEMS, {"topic": "weather"})
        read = await service.read(OWNER, made.conversation.id)
        assert [message.parts for message in read.messages] == [
            (TextPart(text="hi"),),
            (ThinkingPart(text="Hm"), TextPart(text="Let me see."), CALL),
            (ToolResultPart(id="call_1", content="Rain."), ToolResultPart(id="call_2", content="Late.")),
        ]
        assert (read.conversation.system_prompt, read.conversation.metadata) == (
            "Be brief.",
            {"topic": "weather"},
        )

    run(scenario())


def test_read_ends_with_the_message() -> None:
    async def scenario() -> None:
        service, _ = branches()
        made = await service.begin(OWNER, "", ITEMS, {})
        read = await service.read(OWNER, made.conversation.id, made.messages[0].id)
        assert texts(read) == ["hi"]
        with pytest.raises(MessageNotFound):
            await service.read(OWNER, made.conversation.id, "msg_none")
        with pytest.raises(ConversationNotFound):
            await service.read("someone else", made.conversation.id)

    run(scenario())


def test_add_returns_only_the_new_messages() -> None:
    async def scenario() -> None:
        service, _ = branches()
        made = await service.begin(OWNER, "", ITEMS[:1], {})
        added = await service.add(OWNER, made.conversation.id, [InputMessage(role="user", content="more")])
        assert texts(added) == ["more"]
        assert texts(await service.read(OWNER, made.conversation.id)) == ["hi", "more"]

    run(scenario())


def test_remove_makes_a_branch_without_the_message() -> None:
    async def scenario() -> None:
        service, store = branches()
        asked = [InputMessage(role="user", content=text) for text in "abc"]
        made = await service.begin(OWNER, "", asked, {})
        await service.remove(OWNER, made.conversation.id, made.messages[1].id)
        read = await service.read(OWNER, made.conversation.id)
        assert texts(read) == ["a", "c"]
        assert read.conversation.message_count == 2
        assert len(await store.messages(read.conversation)) == 4
        for message in reversed(read.messages):
            await service.remove(OWNER, made.conversation.id, message.id)
        assert texts(await service.read(OWNER, made.conversation.id)) == []

    run(scenario())


def test_remove_takes_one_part() -> None:
    async def scenario() -> None:
        service, _ = branches()
        made = await service.begin(OWNER, "", ITEMS, {})
        await service.remove(OWNER, made.conversation.id, made.messages[1].id, 0)
        read = await service.read(OWNER, made.conversation.id)
        assert read.messages[1].parts == (TextPart(text="Let me see."), CALL)
        with pytest.raises(MessageNotFound):
            await service.remove(OWNER, made.conversation.id, read.messages[1].id, 2)

    run(scenario())


async def two_replies(store: MemoryStore) -> tuple[Conversation, list[Message]]:
    replies = [
        Message("assistant", (TextPart(text=text),), reply=ReplyFacts(model_name="m")) for text in "xy"
    ]
    asked = Message("user", (TextPart(text="hi"),))
    messages = chained((asked, *replies))
    conversation = Conversation(owner=OWNER).with_messages(*messages)
    await store.commit(conversation, messages)
    return conversation, list(messages[1:])


@pytest.mark.parametrize("deletes_all", [True, False])
def test_forgetting_all_replies_deletes_the_conversation_if_asked_to(deletes_all: bool) -> None:
    async def scenario() -> None:
        service, store = branches()
        conversation, (first, second) = await two_replies(store)
        await service.forget_reply(OWNER, conversation.id, first.id, deletes_all=deletes_all)
        assert (await store.get(OWNER, conversation.id)).deleted_replies == (first.id,)
        await service.forget_reply(OWNER, conversation.id, second.id, deletes_all=deletes_all)
        if deletes_all:
            with pytest.raises(ConversationNotFound):
                await store.get(OWNER, conversation.id)
        else:
            assert (await store.get(OWNER, conversation.id)).deleted_replies == (first.id, second.id)

    run(scenario())


@pytest.mark.parametrize(
    "message",
    [
        InputMessage(role="tool", content="Rain."),
        InputMessage(role="user", tool_call_id="call_1"),
        InputMessage(role="user", tool_calls=[CALL]),
        InputMessage(role="system", thinking="Hm"),
    ],
)
def test_a_message_has_the_fields_of_its_role(message: InputMessage) -> None:
    async def scenario() -> None:
        service, _ = branches()
        with pytest.raises(InvalidRequest, match=r"messages\[0\]"):
            await service.begin(OWNER, "", [message], {})

    run(scenario())


def test_what_would_grow_too_large_is_refused() -> None:
    async def scenario() -> None:
        service, _ = branches(max_conversation_bytes=1_000)
        large = [InputMessage(role="user", content="x" * 1_001)]
        with pytest.raises(ConversationFull):
            await service.begin(OWNER, "", large, {})
        made = await service.begin(OWNER, "", ITEMS[:1], {})
        with pytest.raises(ConversationFull):
            await service.add(OWNER, made.conversation.id, large)

    run(scenario())
