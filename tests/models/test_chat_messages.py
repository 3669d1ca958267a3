"""Chats that bring messages of their own: results of tools, system messages, transcripts."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from pydantic import ValidationError

from app.core.errors import ContextOverflow, InvalidRequest, NothingToDo
from app.engine.ipc.messages import Accepted, ChatMessage, Delta, ToolCall, ToolCallRef
from app.models.conversation import Conversation, text_message
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    ContinueRequest,
    DeltaEvent,
    InputMessage,
    RegenerateRequest,
    TextPart,
    ToolCallPart,
)
from app.models.turns.turn_log import TurnEvent
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO, WHOLE
from tests.models.turn_world import World, world

FIRST, SECOND = ToolCallRef(0, "call_1", "weather"), ToolCallRef(1, "call_2", "time")
CALLING = (
    WHOLE[0],
    Delta("r", "Let me see.", 1),
    Delta("r", "{}", 2, "tool_call", tool_call=FIRST),
    Delta("r", " And", 3),
    Delta("r", "{}", 4, "tool_call", tool_call=SECOND),
    WHOLE[-1],
)
HI = InputMessage(role="user", content="hi")


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def answered(here: World, **fields: Any) -> ChatResponse:
    events = await read(here.chats.chat(OWNER, ChatRequest(**fields), soon()))
    assert isinstance(events[-1], ChatResponse)
    return events[-1]


def result(call_id: str, content: str) -> InputMessage:
    return InputMessage(role="tool", tool_call_id=call_id, content=content)


def test_results_of_tools_go_on_with_a_stored_chat() -> None:
    async def scenario() -> None:
        here = world(CALLING)
        asked = await answered(here, messages=[HI])
        results = [result("call_1", "Rain."), result("call_2", "Late.")]
        here.backend.reply = WHOLE
        told = await answered(here, messages=results, conversation_id=asked.conversation_id)
        assert here.backend.requests[-1].messages == (
            ChatMessage("user", "hi"),
            ChatMessage(
                "assistant",
                "Let me see. And",
                tool_calls=(ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "time", "{}")),
            ),
            ChatMessage("tool", "Rain.", tool_call_id="call_1"),
            ChatMessage("tool", "Late.", tool_call_id="call_2"),
        )
        assert told.message_count == 4

    run(scenario())


def test_parts_are_stored_in_the_order_of_the_reply() -> None:
    async def scenario() -> None:
        here = world(CALLING)
        reply = await answered(here, message="hi")
        conversation = await here.store.get(OWNER, reply.conversation_id)
        (*_, stored) = await here.store.branch(conversation, reply.message_id)
        assert stored.parts == (
            TextPart(text="Let me see."),
            ToolCallPart(id="call_1", name="weather", arguments="{}"),
            TextPart(text=" And"),
            ToolCallPart(id="call_2", name="time", arguments="{}"),
        )

    run(scenario())


def test_an_empty_list_answers_what_was_added_before() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        reply = await answered(here, messages=[HI, InputMessage(role="assistant", content="Oh"), HI])
        assert reply.message_count == 4
        with pytest.raises(InvalidRequest, match="last one"):
            await answered(here, messages=[], conversation_id=reply.conversation_id)
        again = await answered(
            here, messages=[], conversation_id=reply.conversation_id, parent_id=reply.parent_id
        )
        assert again.parent_id == reply.parent_id

    run(scenario())


@pytest.mark.parametrize(
    "messages",
    [
        [InputMessage(role="assistant", content="Oh")],
        [HI, InputMessage(role="system", content="Be brief.")],
        [HI, result("call_9", "Rain.")],
    ],
)
def test_messages_that_no_reply_can_follow_are_refused(messages: list[InputMessage]) -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidRequest, match="messages"):
            await answered(world(WHOLE), messages=messages)

    run(scenario())


@pytest.mark.parametrize("fields", [{}, {"message": "hi", "messages": [HI]}, {"messages": []}])
def test_a_chat_has_one_input(fields: Any) -> None:
    with pytest.raises(ValidationError):
        ChatRequest(**fields)


def test_instructions_come_first_and_hold_for_one_reply() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        reply = await answered(here, message="hi", system_prompt="Be kind.", instructions="Be brief.")
        await answered(here, message="hi", conversation_id=reply.conversation_id)
        first, second = (request.messages or () for request in here.backend.requests)
        assert first[0] == ChatMessage("system", "Be brief.\n\nBe kind.")
        assert second[0] == ChatMessage("system", "Be kind.")

    run(scenario())


def test_a_later_system_message_begins_the_users_next_one() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        later = InputMessage(role="system", content="Now be rude.")
        await answered(here, messages=[HI, InputMessage(role="assistant", content="Oh"), later, HI])
        assert here.backend.requests[0].messages is not None
        assert here.backend.requests[0].messages[-1] == ChatMessage("user", "Now be rude.\n\nhi")

    run(scenario())


def test_a_disabled_truncation_refuses_what_would_be_left_out() -> None:
    async def scenario() -> None:
        here = world(HELLO)  # of which one message is omitted
        with pytest.raises(ContextOverflow):
            await answered(here, message="hi", truncation="disabled")
        assert await here.count() == 0

    run(scenario())


def test_a_result_keeps_its_call_even_if_the_history_is_short() -> None:
    async def scenario() -> None:
        here = world(CALLING, max_conversation_length=1)
        asked = await answered(here, messages=[HI])
        here.backend.reply = WHOLE
        results = [result("call_1", "Rain."), result("call_2", "Late."), HI]
        await answered(here, messages=results, conversation_id=asked.conversation_id)
        assert here.backend.requests[-1].messages is not None
        assert [each.role for each in here.backend.requests[-1].messages][-3:] == ["tool", "tool", "user"]

    run(scenario())


def test_a_disabled_truncation_keeps_the_whole_history_of_a_regenerated_reply() -> None:
    async def scenario() -> None:
        here = world(WHOLE, max_conversation_length=1)
        told = [HI, InputMessage(role="assistant", content="Oh"), HI]
        asked = await answered(here, messages=told)
        again = RegenerateRequest(truncation="disabled")
        await read(here.chats.regenerate(OWNER, asked.conversation_id, again, soon()))
        assert here.backend.requests[1].messages == here.backend.requests[0].messages

    run(scenario())


@pytest.mark.parametrize("system", [(), ("Be brief.",)])
def test_a_reply_that_begins_a_conversation_is_neither_regenerated_nor_continued(
    system: tuple[str, ...],
) -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        conversation = Conversation(owner=OWNER, system_prompt="".join(system))
        stored = conversation.with_messages(message := text_message("assistant", "Welcome."))
        await here.store.commit(stored, (message,))
        with pytest.raises(NothingToDo):
            await read(here.chats.regenerate(OWNER, stored.id, RegenerateRequest(), soon()))
        with pytest.raises(NothingToDo):
            await read(here.chats.continue_reply(OWNER, stored.id, ContinueRequest(), soon()))

    run(scenario())


def test_an_automatic_thinking_is_a_wish() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        await answered(here, message="hi", think="auto")
        assert (here.backend.requests[0].think, here.backend.requests[0].wants_thinking) == (None, True)

    run(scenario())


def test_an_echo_is_kept_with_the_reply_and_with_its_turn() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        reader = await here.chats.chat(OWNER, ChatRequest(message="hi"), soon(), echo='{"a":1}')
        events = [record.event async for record in reader]
        assert isinstance(events[-1], ChatResponse)
        assert reader.ids.echo == '{"a":1}'
        assert reader.ids.conversation_id == events[-1].conversation_id
        conversation = await here.store.get(OWNER, reader.ids.conversation_id)
        (*_, stored) = await here.store.branch(conversation, reader.ids.message_id)
        assert stored.reply is not None and stored.reply.echo == '{"a":1}'

    run(scenario())


def test_a_snapshot_has_the_events_so_far() -> None:
    async def scenario() -> None:
        here = world((Accepted("r", 3, 0, 20), *WHOLE[1:4]), is_endless=True)
        request = ChatRequest(message="hi", background=True)
        reader = await here.chats.chat(OWNER, request, soon())
        await anext(reader), await anext(reader)
        while not isinstance((await anext(reader)).event, DeltaEvent):
            pass
        snapshot = await here.chats.snapshot(OWNER, reader.ids.message_id)
        assert not snapshot.has_ended and snapshot.ids == reader.ids
        assert DeltaEvent(text="Hello there") in snapshot.events
        await here.chats.stop(OWNER, reader.ids.message_id)
        assert (await here.chats.snapshot(OWNER, reader.ids.message_id)).has_ended

    run(scenario())


def test_an_unjoined_reader_yields_each_piece_alone() -> None:
    async def scenario() -> None:
        here = world(WHOLE)
        request = ChatRequest(message="hi")
        await read(here.chats.chat(OWNER, request, soon(), "key"))
        reader = (await here.chats.chat(OWNER, request, soon(), "key")).unjoined()
        events: list[TurnEvent] = [record.event async for record in reader]
        assert [each.text for each in events if isinstance(each, DeltaEvent)] == ["Hello", " there"]

    run(scenario())
