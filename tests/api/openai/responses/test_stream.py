"""The events of responses: their order, and that together they are the whole response."""

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from app.engine.ipc.messages import (
    Accepted,
    Delta,
    Finished,
    RequestTimings,
    TokenCounts,
    ToolCallRef,
    ToolUse,
)
from tests.api.openai.responses.conftest import GatedBackend

FIRST, SECOND = ToolCallRef(0, "call_1", "weather"), ToolCallRef(1, "call_2", "weather")
ACCEPTED = Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20)
END = Finished("r", "stop", TokenCounts(3, 9, 0), RequestTimings(0.0, 0.5, 2.0))
CALLS = (
    ACCEPTED,
    Delta("r", "Hm", 1, "thinking"),
    Delta("r", "Let me", 2),
    Delta("r", " see.", 3),
    Delta("r", "", 4, "tool_call", tool_call=FIRST),
    Delta("r", '{"city": ', 6, "tool_call", tool_call=FIRST),
    Delta("r", '"Oslo"}', 8, "tool_call", tool_call=FIRST),
    Delta("r", " And", 8),
    Delta("r", "{}", 9, "tool_call", tool_call=SECOND),
    END,
)
TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
]


def streamed(client: openai.OpenAI, **fields: Any) -> list[ResponseStreamEvent]:
    return list(client.responses.create(model="stand-in", input="hi", stream=True, **fields))


@pytest.mark.parametrize("store", [True, False])
def test_events_come_in_openais_order(client: openai.OpenAI, backend: GatedBackend, store: bool) -> None:
    backend.reply = CALLS[:6] + (END,)
    events = streamed(client, store=store, tools=TOOLS)
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


@pytest.mark.parametrize("store", [True, False])
def test_the_last_event_has_all_that_came_before(
    client: openai.OpenAI, backend: GatedBackend, store: bool
) -> None:
    backend.reply = CALLS
    events = streamed(client, store=store, tools=TOOLS)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    last = events[-1]
    assert last.type == "response.completed" and last.response.output == done
    assert [item.type for item in done] == [
        "reasoning",
        "message",
        "function_call",
        "message",
        "function_call",
    ]
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [item.id for item in added] == [item.id for item in done]
    assert {event.response.id for event in events if hasattr(event, "response")} == {last.response.id}


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("length", range(1, len(CALLS)))
def test_a_streamed_response_is_the_whole_one(
    client: openai.OpenAI, backend: GatedBackend, length: int, store: bool
) -> None:
    reason: Any = "stop" if length == len(CALLS) - 1 else "length"
    backend.reply = (*CALLS[:length], Finished("r", reason, END.usage, END.timings))
    whole = client.responses.create(model="stand-in", input="hi", tools=TOOLS, store=store)
    last = streamed(client, store=store, tools=TOOLS)[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert hasattr(last, "response")
    assert _contents(last.response) == _contents(whole)
    if store:
        assert _contents(client.responses.retrieve(last.response.id)) == _contents(whole)


def _contents(response: Any) -> list[Any]:
    """All of the output but its ids."""
    return [item.model_dump(exclude={"id"}) for item in response.output] + [response.status, response.usage]


def test_the_stream_helper_collects_the_response(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.reply = CALLS
    with client.responses.stream(model="stand-in", input="hi", tools=TOOLS) as stream:
        final = stream.get_final_response()
    assert final.output_text == "Let me see. And"
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(call.call_id, call.name, call.arguments) for call in calls] == [
        ("call_1", "weather", '{"city": "Oslo"}'),
        ("call_2", "weather", "{}"),
    ]
    use = backend.requests[0].tool_use
    assert isinstance(use, ToolUse) and use.tools[0].name == "weather"


@pytest.mark.parametrize("store", [True, False])
def test_an_error_in_a_stream_fails_the_response(
    client: openai.OpenAI, backend: GatedBackend, store: bool
) -> None:
    backend.deaths = [2]
    last = streamed(client, store=store)[-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert last.response.error.code == "server_error" and "signal 9" in last.response.error.message
    assert last.response.output[0].status == "incomplete"  # type: ignore[union-attr]  # it is a reasoning
    if store:
        assert client.responses.retrieve(last.response.id).status == "failed"


@pytest.mark.parametrize("store", [True, False])
def test_an_error_before_the_stream_is_a_status(
    client: openai.OpenAI, backend: GatedBackend, store: bool
) -> None:
    backend.deaths = [0, 0]
    with pytest.raises(openai.InternalServerError, match="signal 9"):
        streamed(client, store=store)


@pytest.mark.parametrize("store", [True, False])
def test_an_error_of_a_whole_response_is_a_status(
    client: openai.OpenAI, backend: GatedBackend, store: bool
) -> None:
    backend.deaths = [2]
    with pytest.raises(openai.InternalServerError, match="signal 9"):
        client.responses.create(model="stand-in", input="hi", store=store)
