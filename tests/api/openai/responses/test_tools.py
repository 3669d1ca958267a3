"""A loop of tool calls and their results, kept by the server or by the client."""

from typing import Any

import openai
import pytest

from app.engine.ipc.messages import ChatMessage, Tool, ToolCall, ToolUse
from tests.api.openai.responses.conftest import GatedBackend
from tests.api.openai.responses.test_stream import CALLS, TOOLS
from tests.models.stand_in import WHOLE

WEATHER = Tool("weather", "", '{"type": "object"}')
OTHER: Any = {"type": "function", "name": "other", "parameters": {"type": "object"}, "strict": False}
CALLED = ChatMessage(
    "assistant",
    "Let me see. And",
    tool_calls=(ToolCall("call_1", "weather", '{"city": "Oslo"}'), ToolCall("call_2", "weather", "{}")),
)


def results(response: Any) -> list[Any]:
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": f"Rain {number}."}
        for number, item in enumerate(item for item in response.output if item.type == "function_call")
    ]


def test_strict_tools_are_strict(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.reply = CALLS
    client.responses.create(model="stand-in", input="hi", tools=[OTHER | {"strict": True}, *TOOLS])
    use = backend.requests[0].tool_use
    assert use is not None and [tool.is_strict for tool in use.tools] == [True, False]


def test_a_loop_with_state(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.reply = CALLS
    asked = client.responses.create(model="stand-in", input="hi", tools=TOOLS)
    backend.reply = WHOLE
    told = client.responses.create(
        model="stand-in", input=results(asked), tools=TOOLS, previous_response_id=asked.id
    )
    assert backend.requests[1].messages == (
        ChatMessage("user", "hi"),
        CALLED,
        ChatMessage("tool", "Rain 0.", tool_call_id="call_1"),
        ChatMessage("tool", "Rain 1.", tool_call_id="call_2"),
    )
    assert told.output_text == "Hello there"
    listed = client.responses.input_items.list(told.id, order="asc")
    assert [item.type for item in listed] == ["function_call_output"] * 2


@pytest.mark.parametrize("store", [True, False])
def test_a_loop_without_state(client: openai.OpenAI, backend: GatedBackend, store: bool) -> None:
    backend.reply = CALLS[:3] + CALLS[4:7] + CALLS[-1:]
    asked = client.responses.create(model="stand-in", input="hi", tools=TOOLS, store=store)
    backend.reply = WHOLE
    history: list[Any] = [
        {"role": "user", "content": "hi"},
        *(item.model_dump(exclude_none=True) for item in asked.output),
        *results(asked),
    ]
    client.responses.create(model="stand-in", input=history, tools=TOOLS, store=store)
    assert backend.requests[1].messages == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "Let me", tool_calls=CALLED.tool_calls[:1]),
        ChatMessage("tool", "Rain 0.", tool_call_id="call_1"),
    )


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", ToolUse((WEATHER, Tool("other", "", '{"type": "object"}')))),
        ("none", ToolUse((WEATHER, Tool("other", "", '{"type": "object"}')), "none")),
        ("required", ToolUse((WEATHER, Tool("other", "", '{"type": "object"}')), "required")),
        (
            {"type": "function", "name": "weather"},
            ToolUse((WEATHER, Tool("other", "", '{"type": "object"}')), name="weather"),
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            ToolUse((WEATHER,), "required"),
        ),
    ],
)
def test_a_choice_reaches_the_model(
    client: openai.OpenAI, backend: GatedBackend, choice: Any, expected: ToolUse, store: bool
) -> None:
    client.responses.create(
        model="stand-in", input="hi", tools=[*TOOLS, OTHER], tool_choice=choice, store=store
    )
    assert backend.requests[0].tool_use == expected


def test_calls_may_be_limited_to_one(client: openai.OpenAI, backend: GatedBackend) -> None:
    response = client.responses.create(model="stand-in", input="hi", tools=TOOLS, parallel_tool_calls=False)
    use = backend.requests[0].tool_use
    assert use is not None and not use.is_parallel and not response.parallel_tool_calls


def test_calls_show_in_the_native_api_which_goes_on_with_them(
    client: openai.OpenAI, backend: GatedBackend
) -> None:
    backend.reply = CALLS
    asked = client.responses.create(model="stand-in", input="hi", tools=TOOLS)
    assert asked.conversation is not None
    root = str(client.base_url).removesuffix("v1/")
    shown: Any = client.get(f"{root}api/v1/chat/conversation/{asked.conversation.id}", cast_to=object)
    assert [part["type"] for part in shown["messages"][1]["parts"]] == [
        "thinking",
        "text",
        "tool_call",
        "text",
        "tool_call",
    ]
    backend.reply = WHOLE
    messages = [
        {"role": "tool", "tool_call_id": f"call_{number}", "content": f"Rain {number}."} for number in (1, 2)
    ]
    body = {"conversation_id": asked.conversation.id, "messages": messages}
    reply: Any = client.post(f"{root}api/v1/chat", cast_to=object, body=body)
    assert reply["response"] == "Hello there"
    assert (backend.requests[1].messages or ())[1] == CALLED
    items = client.conversations.items.list(asked.conversation.id, order="asc")
    assert [item.type for item in items][-4:] == [
        "function_call_output",
        "function_call_output",
        "reasoning",
        "message",
    ]


def test_a_native_reply_is_a_response_too(client: openai.OpenAI) -> None:
    root = str(client.base_url).removesuffix("v1/")
    reply: Any = client.post(f"{root}api/v1/chat", cast_to=object, body={"message": "hi"})
    own_id = f"resp_{reply['conversation_id'][5:]}{reply['message_id'][4:]}"
    assert client.responses.retrieve(own_id).output_text == "Hello there"
    told = client.responses.create(model="stand-in", input="more", previous_response_id=own_id)
    assert told.conversation is not None and told.conversation.id == reply["conversation_id"]
