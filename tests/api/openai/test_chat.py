"""Chat completions with OpenAI's own client, on prescribed replies."""

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Finished,
    Grammar,
    RequestTimings,
    TokenCounts,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallRef,
    ToolUse,
)
from tests.models.stand_in import StandInBackend

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks out.", "parameters": {"type": "object"}},
}


def allowed(mode: str, name: str) -> dict[str, Any]:
    """Returns a choice of the tools that may be called."""
    tools = [{"type": "function", "function": {"name": name}}]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


FIRST, SECOND = ToolCallRef(0, "call_1", "weather"), ToolCallRef(1, "call_2", "weather")
CALLS = (
    Accepted("r", prompt_tokens=3, omitted_messages=0, max_tokens=20),
    Delta("r", "Let me see.", 3),
    Delta("r", "", 4, "tool_call", tool_call=FIRST),
    Delta("r", '{"city": ', 6, "tool_call", tool_call=FIRST),
    Delta("r", '"Oslo"}', 8, "tool_call", tool_call=FIRST),
    Delta("r", "{}", 9, "tool_call", tool_call=SECOND),
    Finished("r", "stop", TokenCounts(3, 9, 0), RequestTimings(0.0, 0.5, 2.0)),
)


def test_a_reply_has_text_thinking_and_usage(client: openai.OpenAI, backend: StandInBackend) -> None:
    reply = client.chat.completions.create(model="stand-in", messages=ASK, temperature=0, max_tokens=9)
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("Hello there", "stop")
    assert choice.message.model_dump()["reasoning_content"] == "Well"
    assert reply.usage is not None and reply.usage.prompt_tokens_details is not None
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 4, 7)
    assert usage.prompt_tokens_details is not None and usage.prompt_tokens_details.cached_tokens == 2
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 1
    assert (backend.sampling[0].temperature, backend.sampling[0].max_tokens) == (0, 9)
    assert backend.requests[0].scope == "default"


def test_a_stream_joined_is_the_whole_reply(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="stand-in", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "Hello there"
    assert "".join(delta.model_dump().get("reasoning_content") or "" for delta in deltas) == "Well"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1


def test_a_whole_reply_has_its_tool_calls(client: openai.OpenAI, backend: StandInBackend) -> None:
    backend.reply = CALLS
    reply = client.chat.completions.create(model="stand-in", messages=ASK, tools=[WEATHER])
    (choice,) = reply.choices
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    calls = [call.function for call in choice.message.tool_calls or () if call.type == "function"]
    assert [(call.name, call.arguments) for call in calls] == [
        ("weather", '{"city": "Oslo"}'),
        ("weather", "{}"),
    ]
    assert backend.requests[0].tool_use == ToolUse((Tool("weather", "Looks out.", '{"type": "object"}'),))


def test_streamed_arguments_joined_are_the_whole_ones(client: openai.OpenAI, backend: StandInBackend) -> None:
    backend.reply = CALLS
    with client.chat.completions.stream(model="stand-in", messages=ASK, tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name, call.function.arguments) for call in calls] == [
        ("call_1", "weather", '{"city": "Oslo"}'),
        ("call_2", "weather", "{}"),
    ]
    assert final.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ("none", None)),
        ("required", ("required", None)),
        ({"type": "function", "function": {"name": "weather"}}, ("required", "weather")),
    ],
)
def test_tool_choice_reaches_the_model(
    client: openai.OpenAI, backend: StandInBackend, choice: Any, expected: object
) -> None:
    client.chat.completions.create(
        model="stand-in", messages=ASK, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False
    )
    use = backend.requests[0].tool_use
    assert use is not None and ((use.choice, use.name), use.is_parallel) == (expected, False)


@pytest.mark.parametrize(("mode", "expected"), [("auto", "auto"), ("required", "required")])
def test_only_allowed_tools_reach_the_model(
    client: openai.OpenAI, backend: StandInBackend, mode: str, expected: str
) -> None:
    tools = [WEATHER, {"type": "function", "function": {"name": "search"}}]
    body = {"model": "stand-in", "messages": ASK, "tools": tools, "tool_choice": allowed(mode, "weather")}
    client.post("/chat/completions", cast_to=object, body=body)
    use = backend.requests[0].tool_use
    assert use is not None and (use.choice, use.name) == (expected, None)
    assert [tool.name for tool in use.tools] == ["weather"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"response_format": {"type": "json_object", "schema": {"type": "null"}}},
            ("json_schema", '{"type": "null"}'),
        ),
        ({"structured_outputs": {"json": {"type": "null"}}}, ("json_schema", '{"type": "null"}')),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, ("json_schema", '{"type": "null"}')),
        ({"structured_outputs": {"json_object": True}}, ("json_schema", '{"type": "object"}')),
        ({"structured_outputs": {"regex": "a+"}}, ("regex", "a+")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, ("choice", '["yes", "no"]')),
    ],
)
@pytest.mark.parametrize("route", ["/chat/completions", "/completions"])
def test_form_of_the_text_in_the_words_of_other_servers_reaches_the_model(
    client: openai.OpenAI, backend: StandInBackend, route: str, fields: Any, expected: Any
) -> None:
    given = {"messages": ASK} if route == "/chat/completions" else {"prompt": "x"}
    client.post(route, cast_to=object, body={"model": "stand-in", **given, **fields})
    assert backend.requests[0].grammar == Grammar(*expected)


@pytest.mark.parametrize(("seed", "is_repeated"), [(-7, True), (-1, False)])
def test_numbers_that_other_servers_take_are_taken(
    client: openai.OpenAI, backend: StandInBackend, seed: int, is_repeated: bool
) -> None:
    body = {"model": "stand-in", "messages": ASK, "top_k": -1, "top_p": 0, "seed": seed}
    for _ in range(2):
        client.post("/chat/completions", cast_to=object, body=body)
    one, other = backend.sampling
    assert one.top_k == 0
    assert 0 < one.top_p < 1e-6
    assert (one.seed == other.seed) is is_repeated


def test_the_result_of_a_call_goes_back_to_the_model(client: openai.OpenAI, backend: StandInBackend) -> None:
    call: Any = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[ChatCompletionMessageParam] = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain."},
    ]
    client.chat.completions.create(model="stand-in", messages=messages)
    assert backend.requests[0].messages == (
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", tool_calls=(ToolCall("call_1", "weather", "{}"),)),
        ChatMessage("tool", "Rain.", tool_call_id="call_1"),
    )


def test_sampling_parameters_reach_the_model(client: openai.OpenAI, backend: StandInBackend) -> None:
    client.chat.completions.create(
        model="stand-in",
        messages=ASK,
        temperature=0.25,
        top_p=0.5,
        presence_penalty=0.75,
        frequency_penalty=-0.5,
        stop=["x"],
        seed=7,
        extra_body={"top_k": 3, "min_p": 0.125},
    )
    sampling = backend.sampling[0]
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.25, 0.5, 3, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.75, -0.5)
    assert (sampling.stop, sampling.seed) == (("x",), 7)


def test_several_choices_have_seeds_of_their_own(client: openai.OpenAI, backend: StandInBackend) -> None:
    reply = client.chat.completions.create(model="stand-in", messages=ASK, n=3, seed=7)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert sorted(sampling.seed or 0 for sampling in backend.sampling) == [7, 8, 9]
    assert reply.usage is not None and reply.usage.completion_tokens == 12
    assert sum(request.is_kept for request in backend.requests) == 1


def test_log_probabilities_have_the_bytes_of_tokens(client: openai.OpenAI, backend: StandInBackend) -> None:
    accepted, finished = CALLS[0], CALLS[-1]
    token = TokenLogprob(5, b"H\xc3", -0.5, (TokenLogprob(5, b"H\xc3", -0.5),))
    backend.reply = (accepted, Delta("r", "H", 1, logprobs=(token,)), finished)
    reply = client.chat.completions.create(model="stand-in", messages=ASK, logprobs=True, top_logprobs=1)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert (logprobs.content[0].logprob, logprobs.content[0].bytes) == (-0.5, [72, 195])
    assert backend.sampling[0].top_logprobs == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens, max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, None),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"tools": [{"type": "function", "name": "f"}]}, None),
        ({"top_logprobs": 2}, None),
        ({"modalities": ["audio"]}, "modalities"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"grammar": "root ::= 'x'"}, "grammar"),
        ({"structured_outputs": {"grammar": "root ::= 'x'"}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "x", "choice": ["y"]}}, "structured_outputs"),
        (
            {"structured_outputs": {"regex": "x"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
        ({"tools": [WEATHER], "tool_choice": allowed("auto", "search")}, "tool_choice"),
    ],
)
def test_what_cannot_be_honoured_is_a_400_in_openais_form(
    client: openai.OpenAI, backend: StandInBackend, fields: Any, param: str | None
) -> None:
    body = {"model": "stand-in", "messages": ASK} | fields
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", cast_to=object, body=body)
    assert refused.value.type == "invalid_request_error"
    assert param is None or (refused.value.param or "").startswith(param.partition(".")[0])
    assert backend.requests == []


def test_error_of_no_field_names_none(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/chat/completions", cast_to=object, content=b"{bad")
    assert "not valid JSON" in refused.value.message
    assert refused.value.param is None


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "x", "store": True, "metadata": {}, "service_tier": "auto", "unheard_of": 1},
        {"tools": [{"type": "web_search"}]},
        {"temperature": None, "stop": None, "n": None, "stream": None},
    ],
)
def test_what_changes_nothing_is_ignored(client: openai.OpenAI, backend: StandInBackend, fields: Any) -> None:
    client.post("/chat/completions", cast_to=object, body={"model": "stand-in", "messages": ASK} | fields)
    assert backend.requests[0].tool_use is None


@pytest.mark.parametrize(
    ("fields", "think", "wants"),
    [
        ({"reasoning_effort": "high"}, None, True),
        ({"reasoning_effort": "none"}, False, False),
        ({"reasoning_effort": "max"}, None, True),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"x": 1}}, False, False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, True, False),
        ({}, None, False),
    ],
)
def test_an_effort_is_a_hint_to_think(
    client: openai.OpenAI, backend: StandInBackend, fields: Any, think: bool | None, wants: bool
) -> None:
    client.post("/chat/completions", cast_to=object, body={"model": "stand-in", "messages": ASK} | fields)
    assert (backend.requests[0].think, backend.requests[0].wants_thinking) == (think, wants)


def test_thinking_can_have_a_budget(client: openai.OpenAI, backend: StandInBackend) -> None:
    client.chat.completions.create(model="stand-in", messages=ASK, extra_body={"thinking_budget": 0})
    assert backend.requests[0].thinking_budget == 0


def test_an_error_in_a_stream_reaches_the_client(client: openai.OpenAI, backend: StandInBackend) -> None:
    backend.deaths = [2]
    stream = client.chat.completions.create(model="stand-in", messages=ASK, stream=True)
    with pytest.raises(openai.APIError, match="signal 9"):
        list(stream)


def test_unknown_routes_have_openais_form(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.get("/nothing", cast_to=object)
    assert refused.value.type == "invalid_request_error"


def test_the_assistants_last_message_is_continued(client: openai.OpenAI, backend: StandInBackend) -> None:
    messages: list[ChatCompletionMessageParam] = [*ASK, {"role": "assistant", "content": "Hel"}]
    client.chat.completions.create(model="stand-in", messages=messages)
    assert backend.requests[0].continue_final_message
