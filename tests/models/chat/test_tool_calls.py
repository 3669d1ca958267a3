"""Tool calls of a turn: sent as events, stored as parts, and shown to the model again."""

import asyncio

import pytest
from pydantic import ValidationError

from app.core.config import Settings
from app.core.deadline import Deadline
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Finished,
    RequestTimings,
    TokenCounts,
    Tool,
    ToolCall,
    ToolCallRef,
    ToolUse,
)
from app.models.chat.engine_terms import chat_messages_of, tool_use_of
from app.models.chat.generation import ChatGenerator
from app.models.chat.reply import PartCollector
from app.models.chat.token_counter import TokenCounter
from app.models.conversation import Conversation, Message, text_message
from app.models.schemas import (
    ChatRequest,
    CountRequest,
    DeltaEvent,
    DetokenizeRequest,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
    TokenizeRequest,
    ToolCallEvent,
    ToolCallPart,
    ToolDefinition,
    ToolFields,
    ToolResultPart,
)
from app.models.storage.memory_store import MemoryStore
from app.models.turns.turn import Turn
from app.models.turns.turn_log import TurnLog
from app.models.turns.turn_registry import TurnReader
from app.models.turns.turn_runner import TurnRunner
from tests.models.conftest import soon
from tests.models.stand_in import StandInBackend, StandInModels

WEATHER, TIME = ToolCallRef(0, "call_1", "weather"), ToolCallRef(1, "call_2", "time")
REPLY = (
    Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20),
    Delta("r", "Let me see.", 1),
    Delta("r", '{"city": ', 2, "tool_call", tool_call=WEATHER),
    Delta("r", '"Paris"}', 3, "tool_call", tool_call=WEATHER),
    Delta("r", "{}", 4, "tool_call", tool_call=TIME),
    Finished("r", "stop", TokenCounts(3, 4, 2), RequestTimings(0.0, 0.5, 2.0)),
)
CALLS = [
    ToolCallPart(id="call_1", name="weather", arguments='{"city": "Paris"}'),
    ToolCallPart(id="call_2", name="time", arguments="{}"),
]
TOOLS = [ToolDefinition(name="weather"), ToolDefinition(name="time")]
REQUEST = ChatRequest(message="How is it?", tools=TOOLS)


def test_turn_sends_stores_and_repeats_tool_calls() -> None:
    async def scenario() -> None:
        backend = StandInBackend(reply=REPLY)
        store = MemoryStore(max_conversations=10, ttl_s=60, held=set())
        conversation, message = Conversation(owner="tests"), text_message("user", "How is it?")
        turn = Turn(conversation, REQUEST, None, (message,), new_messages=(message,))
        log = TurnLog("msg_reply")
        runner = TurnRunner(Settings(_env_file=None), store, ChatGenerator(StandInModels(backend)))
        response = await runner.run(turn, log, Deadline.after(60))
        log.finish(response)
        events = [record.event async for record in TurnReader(log)]
        assert [event.arguments for event in events if isinstance(event, ToolCallEvent)] == [
            '{"city": ',
            '"Paris"}',
            "{}",
        ]
        assert (response.response, response.tool_calls) == ("Let me see.", CALLS)
        stored = await store.branch(await store.get("tests", conversation.id), "msg_reply")
        assert [part for part in stored[-1].parts if isinstance(part, ToolCallPart)] == CALLS
        assert backend.requests[0].tool_use == ToolUse((Tool("weather"), Tool("time")))
        calls = (ToolCall("call_1", "weather", '{"city": "Paris"}'), ToolCall("call_2", "time", "{}"))
        assert chat_messages_of(stored[-1]) == [ChatMessage("assistant", "Let me see.", calls)]

    asyncio.run(scenario())


def test_parts_of_a_stored_reply_are_in_the_order_of_its_stream() -> None:
    parts = PartCollector()
    for event in (
        ThinkingEvent(text="Hm"),
        DeltaEvent(text="Let "),
        DeltaEvent(text="me see."),
        ToolCallEvent(index=0, id="call_1", name="time", arguments=""),
        ToolCallEvent(index=1, id="call_2", name="time", arguments="{"),
        ToolCallEvent(index=1, id="call_2", name="time", arguments="}"),
        DeltaEvent(text="Done."),
    ):
        parts.add(event)
    assert parts.parts() == (
        ThinkingPart(text="Hm"),
        TextPart(text="Let me see."),
        ToolCallPart(id="call_1", name="time", arguments=""),
        ToolCallPart(id="call_2", name="time", arguments="{}"),
        TextPart(text="Done."),
    )


def test_results_of_tools_are_messages_of_their_own() -> None:
    parts = (ToolResultPart(id="call_1", content="Sunny"), ToolResultPart(id="call_2", content="12:00"))
    assert chat_messages_of(Message("tool", parts)) == [
        ChatMessage("tool", "Sunny", tool_call_id="call_1"),
        ChatMessage("tool", "12:00", tool_call_id="call_2"),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"tools": []}, None),
        ({"tools": [{"name": "a"}]}, ToolUse((Tool("a"),))),
        ({"tools": [{"name": "a"}], "tool_choice": "required"}, ToolUse((Tool("a"),), "required")),
        ({"tools": [{"name": "a"}], "tool_choice": {"name": "a"}}, ToolUse((Tool("a"),), name="a")),
        (
            {"tools": [{"name": "a"}], "tool_choice": "none", "parallel_tool_calls": False},
            ToolUse((Tool("a"),), "none", is_parallel=False),
        ),
    ],
)
def test_tools_of_a_request_in_the_engines_terms(fields: dict[str, object], expected: ToolUse | None) -> None:
    assert tool_use_of(ToolFields.model_validate(fields)) == expected


@pytest.mark.parametrize("fields", [{"tool_choice": "required"}, {"parallel_tool_calls": False, "tools": []}])
def test_choice_without_tools_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="need tools"):
        ToolFields.model_validate(fields)


def test_counter_asks_the_model() -> None:
    async def scenario() -> None:
        backend = StandInBackend()
        counter = TokenCounter(StandInModels(backend))
        tokens = await counter.tokenize(TokenizeRequest(text="ab"), soon())
        assert (tokens.token_ids, tokens.tokens, tokens.count) == ([97, 98], ["a", "b"], 2)
        text = await counter.detokenize(DetokenizeRequest(token_ids=[97, 98]), soon())
        assert text.text == "ab"
        request = CountRequest.model_validate({"messages": [{"role": "user", "content": "hi"}]})
        count = await counter.count("somebody", request, soon())
        assert (count.tokens, count.context_length) == (7, backend.info.context_length)
        assert backend.requests[0].messages == (ChatMessage("user", "hi"),)

    asyncio.run(scenario())
