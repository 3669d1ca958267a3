"""Messages with Anthropic's own client, on prescribed replies."""

from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from app.core.errors import ContextOverflow
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Finished,
    Grammar,
    RequestTimings,
    TokenCounts,
    ToolCall,
    ToolCallRef,
    ToolUse,
)
from tests.api.openai.test_chat import CALLS
from tests.models.stand_in import WHOLE, StandInBackend

ASK: list[MessageParam] = [{"role": "user", "content": "hi"}]
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}


def nested_documents(depth: int) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": "It rains."}
    for _ in range(depth):
        block = {"type": "document", "source": {"type": "content", "content": [block]}}
    return block


WEATHER: ToolParam = {"name": "weather", "description": "Looks out.", "input_schema": {"type": "object"}}


def test_a_message_has_thinking_text_and_usage(client: anthropic.Anthropic, backend: StandInBackend) -> None:
    reply = client.messages.create(
        model="stand-in",
        max_tokens=9,
        system="Be brief.",
        messages=ASK,
        stop_sequences=["x"],
        extra_body={"temperature": 0.25, "top_p": 0.5, "top_k": 3},
    )
    thinking, text = reply.content
    assert thinking.type == "thinking" and thinking.thinking == "Well"
    assert text.type == "text" and text.text == "Hello there"
    assert reply.stop_reason == "end_turn"
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens) == (1, 2)
    assert reply.usage.output_tokens == 4
    assert backend.requests[0].messages == (ChatMessage("system", "Be brief."), ChatMessage("user", "hi"))
    sampling = backend.sampling[0]
    assert (sampling.max_tokens, sampling.stop) == (9, ("x",))
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 3)


def test_a_stream_joined_is_the_whole_message(client: anthropic.Anthropic, backend: StandInBackend) -> None:
    backend.reply = CALLS
    whole = client.messages.create(model="stand-in", max_tokens=9, messages=ASK, tools=[WEATHER])
    with client.messages.stream(model="stand-in", max_tokens=9, messages=ASK, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        joined = stream.get_final_message()
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert [block.to_dict() for block in joined.content] == [block.to_dict() for block in whole.content]
    assert joined.stop_reason == whole.stop_reason == "tool_use"
    assert joined.usage.output_tokens == whole.usage.output_tokens


TEXT_AFTER_A_CALL = (
    Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20),
    Delta("r", "Let me see.", 3),
    Delta("r", '{"city": "Oslo"}', 8, "tool_call", tool_call=ToolCallRef(0, "call_1", "weather")),
    Delta("r", " That is", 9),
    Delta("r", " all.", 10),
    Delta("r", '{"city": "Ro', 12, "tool_call", tool_call=ToolCallRef(1, "call_2", "weather")),
    Finished("r", "length", TokenCounts(3, 12, 0), RequestTimings(0.0, 0.5, 2.0)),
)


def test_a_whole_message_has_its_blocks_in_the_order_of_the_stream(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    backend.reply = TEXT_AFTER_A_CALL
    whole = client.messages.create(model="stand-in", max_tokens=20, messages=ASK, tools=[WEATHER])
    with client.messages.stream(model="stand-in", max_tokens=20, messages=ASK, tools=[WEATHER]) as stream:
        joined = stream.get_final_message()
    assert [block.type for block in whole.content] == ["text", "tool_use", "text", "tool_use"]
    assert [block.to_dict() for block in joined.content] == [block.to_dict() for block in whole.content]


def test_the_stop_sequence_that_ended_a_reply_is_reported(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    backend.reply = (
        *WHOLE[:-1],
        Finished("r", "stop", TokenCounts(3, 4, 2), RequestTimings(0.0, 0.5, 2.0), matched_stop="END"),
    )
    whole = client.messages.create(model="stand-in", max_tokens=20, messages=ASK, stop_sequences=["x", "END"])
    with client.messages.stream(model="stand-in", max_tokens=20, messages=ASK) as stream:
        joined = stream.get_final_message()
    for message in (whole, joined):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


def test_tool_calls_have_their_input(client: anthropic.Anthropic, backend: StandInBackend) -> None:
    backend.reply = CALLS
    reply = client.messages.create(
        model="stand-in",
        max_tokens=9,
        messages=ASK,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    )
    calls = [block for block in reply.content if block.type == "tool_use"]
    assert [(call.id, call.name, call.input) for call in calls] == [
        ("call_1", "weather", {"city": "Oslo"}),
        ("call_2", "weather", {}),
    ]
    use = backend.requests[0].tool_use
    assert use == ToolUse(use.tools if use else (), "required", "weather", is_parallel=False)


def test_results_of_tools_come_before_the_text_beside_them(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "Rain."}]},
                {"type": "text", "text": "And now?", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ]
    client.messages.create(model="stand-in", max_tokens=9, messages=messages)
    assert backend.requests[0].messages == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", tool_calls=(ToolCall("c1", "f", '{"x": 1}'),)),
        ChatMessage("tool", "Rain.", tool_call_id="c1"),
        ChatMessage("user", "And now?"),
    )


def test_texts_of_documents_and_search_results_reach_the_model(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    text = {"type": "text", "text": "It rains."}
    result = {"type": "search_result", "title": "Oslo", "source": "https://a.example", "content": [text]}
    blocks: list[Any] = [
        {"type": "tool_result", "tool_use_id": "c1", "content": [result]},
        {
            "type": "document",
            "title": "Notes",
            "context": "From May",
            "source": {"type": "text", "media_type": "text/plain", "data": "Take a coat."},
        },
        {"type": "document", "source": {"type": "content", "content": [text]}},
        {"type": "text", "text": "And now?"},
    ]
    call = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
    messages: list[Any] = [
        *ASK,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": blocks},
    ]
    client.messages.create(model="stand-in", max_tokens=9, messages=messages)
    assert backend.requests[0].messages is not None
    assert [message.content for message in backend.requests[0].messages[-2:]] == [
        "Oslo\nhttps://a.example\nIt rains.",
        "Notes\nFrom May\nTake a coat.\nIt rains.\nAnd now?",
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": PDF}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "content"}}]}]},
        {"messages": [{"role": "user", "content": [nested_documents(2)]}]},
        {"messages": [{"role": "user", "content": [nested_documents(200)]}]},
        {"max_tokens": "9"},
        {"temperature": 3},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"messages": [{"role": "user", "content": [{"type": ["x"]}]}]},
        {"tool_choice": {"type": "any"}},
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "other"}},
    ],
)
def test_what_cannot_be_honoured_is_a_400_in_anthropics_form(
    client: anthropic.Anthropic, backend: StandInBackend, fields: Any
) -> None:
    body = {"model": "stand-in", "max_tokens": 9, "messages": ASK} | fields
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.post("/v1/messages", cast_to=object, body=body)
    assert isinstance(refused.value.body, dict)
    assert refused.value.body["type"] == "error"
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert backend.requests == []


def test_what_changes_nothing_is_ignored(client: anthropic.Anthropic, backend: StandInBackend) -> None:
    messages: list[Any] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {
            "role": "user",
            "content": [{"type": "unheard_of"}, {"type": "text", "text": "more"}],
        },
    ]
    body = {
        "model": "stand-in",
        "max_tokens": 9,
        "messages": messages,
        "metadata": {"user_id": "x"},
        "context_management": {},
        "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"type": "mcp_toolset"}],
    }
    client.post("/v1/messages?beta=true", cast_to=object, body=body)
    assert backend.requests[0].tool_use is None
    assert backend.requests[0].messages is not None
    assert backend.requests[0].messages[-1] == ChatMessage("user", "more")


def test_an_error_in_a_stream_reaches_the_client(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    backend.deaths = [2]
    with (
        pytest.raises(anthropic.APIStatusError, match="signal 9"),
        client.messages.stream(model="stand-in", max_tokens=9, messages=ASK) as stream,
    ):
        list(stream)


def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_know(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    backend.refusal = ContextOverflow("The message has 900 tokens.")
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model="stand-in", max_tokens=9, messages=ASK)


def test_the_form_of_the_text_and_failed_tools_reach_the_model(
    client: anthropic.Anthropic, backend: StandInBackend
) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": "no wind", "is_error": True}
    body = {
        "model": "stand-in",
        "max_tokens": 9,
        "messages": [*ASK, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    client.post("/v1/messages", cast_to=object, body=body)
    (request,) = backend.requests
    assert request.grammar == Grammar("json_schema", '{"type": "object"}')
    assert request.messages is not None and request.messages[-1].content == "Error: no wind"
    assert request.wants_thinking and request.thinking_budget == 1024


@pytest.mark.parametrize(
    "thinking", [{"type": "disabled", "budget_tokens": 1024}, {"type": "adaptive"}, None]
)
def test_thinking_has_no_budget_unless_it_is_given_one(
    client: anthropic.Anthropic, backend: StandInBackend, thinking: dict[str, Any] | None
) -> None:
    body = {"model": "stand-in", "max_tokens": 9, "messages": ASK, "thinking": thinking}
    client.post("/v1/messages", cast_to=object, body=body)
    assert backend.requests[0].thinking_budget is None


def test_a_negative_budget_is_refused(client: anthropic.Anthropic, backend: StandInBackend) -> None:
    body = {"type": "enabled", "budget_tokens": -1}
    with pytest.raises(anthropic.BadRequestError, match="budget_tokens"):
        client.messages.create(model="stand-in", max_tokens=9, messages=ASK, extra_body={"thinking": body})
    assert backend.requests == []


def test_tokens_are_counted_without_a_limit(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="stand-in", messages=ASK, system="Be brief.")
    assert counted.input_tokens == 7
