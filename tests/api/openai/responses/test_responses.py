"""Responses with OpenAI's own client, on prescribed replies: what is asked, answered and kept."""

from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseOutputMessage, ResponseReasoningItem

from app.engine.ipc.messages import Accepted, ChatMessage, Delta, Finished, Grammar, TokenLogprob
from tests.api.openai.responses.conftest import GatedBackend
from tests.models.stand_in import HELLO, WHOLE

BODY = {"model": "stand-in", "input": "hi"}


def ask(client: openai.OpenAI, asked: str = "hi", **fields: Any) -> Response:
    response = client.responses.create(model="stand-in", input=asked, **fields)
    assert isinstance(response, Response)
    return response


def last_messages(backend: GatedBackend) -> tuple[ChatMessage, ...]:
    return backend.requests[-1].messages or ()


@pytest.mark.parametrize("store", [True, False])
def test_a_response_has_text_reasoning_and_usage(client: openai.OpenAI, store: bool) -> None:
    response = ask(client, store=store, temperature=0.5, max_output_tokens=9, metadata={"a": "b"})
    reasoning, message = response.output
    assert isinstance(reasoning, ResponseReasoningItem) and reasoning.content is not None
    assert [part.text for part in reasoning.content] == ["Well"]
    assert isinstance(message, ResponseOutputMessage) and message.status == "completed"
    assert (response.output_text, response.status) == ("Hello there", "completed")
    assert (response.temperature, response.max_output_tokens, response.metadata) == (0.5, 9, {"a": "b"})
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (
        3,
        4,
        7,
    )
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert (response.conversation is not None) is store


def test_a_stored_response_is_read_as_it_was_answered(client: openai.OpenAI) -> None:
    response = ask(client, instructions="Be brief.", metadata={"a": "b"}, truncation="auto")
    assert client.responses.retrieve(response.id).model_dump() == response.model_dump()


def test_what_is_not_stored_cannot_be_read(client: openai.OpenAI) -> None:
    response = ask(client, store=False)
    with pytest.raises(openai.NotFoundError) as refused:
        client.responses.retrieve(response.id)
    assert refused.value.code == "response_not_found"


def test_instructions_are_not_carried_over(client: openai.OpenAI, backend: GatedBackend) -> None:
    first = ask(client, instructions="Be brief.")
    ask(client, "more", previous_response_id=first.id)
    assert [request.messages[0] for request in backend.requests if request.messages] == [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
    ]
    assert last_messages(backend)[1:] == (
        ChatMessage("assistant", "Hello there"),
        ChatMessage("user", "more"),
    )


@pytest.mark.parametrize("store", [True, False])
def test_a_previous_response_may_be_continued_twice(
    client: openai.OpenAI, backend: GatedBackend, store: bool
) -> None:
    first = ask(client)
    asked = ask(client, "one", previous_response_id=first.id, store=store)
    ask(client, "two", previous_response_id=first.id, store=store)
    assert [message.content for message in last_messages(backend)] == ["hi", "Hello there", "two"]
    assert asked.previous_response_id == first.id
    if store:
        assert asked.conversation is not None and first.conversation is not None
        assert asked.conversation.id == first.conversation.id


def test_items_of_all_kinds_reach_the_model(client: openai.OpenAI, backend: GatedBackend) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "h"}, {"type": "input_text", "text": "i"}],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm"}],
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
        {"role": "user", "content": "And?"},
    ]
    response = client.responses.create(model="stand-in", input=items)
    stored = last_messages(backend)
    client.responses.create(model="stand-in", input=items, store=False)
    assert stored == last_messages(backend)
    assert [(message.role, message.content) for message in stored] == [
        ("system", "Be kind."),
        ("user", "hi"),
        ("assistant", "Let me see."),
        ("tool", "Rain."),
        ("user", "And?"),
    ]
    kinds = [item.type for item in client.responses.input_items.list(response.id, order="asc")]
    assert kinds == [
        "message",
        "message",
        "reasoning",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]


def test_input_items_come_in_pages(client: openai.OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": str(number)} for number in range(5)]
    first = client.responses.create(model="stand-in", input=items)
    second = ask(client, "six", previous_response_id=first.id)
    page = client.responses.input_items.list(first.id, limit=2)
    texts = [item.content[0].text for item in page if item.type == "message"]  # type: ignore[union-attr]  # all are text
    assert texts == ["4", "3", "2", "1", "0"]
    (only,) = client.responses.input_items.list(second.id)
    assert only.type == "message" and only.content[0].text == "six"  # type: ignore[union-attr]  # it is text


def test_a_reply_that_was_cut_is_incomplete(client: openai.OpenAI, backend: GatedBackend) -> None:
    last = WHOLE[-1]
    assert isinstance(last, Finished)
    backend.reply = (*WHOLE[:-1], Finished("r", "length", last.usage, last.timings))
    response = ask(client)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert [item.status for item in response.output] == ["completed", "incomplete"]  # type: ignore[union-attr]  # each has one


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("truncation", ["auto", "disabled"])
def test_messages_are_left_out_only_if_that_is_allowed(
    client: openai.OpenAI, backend: GatedBackend, truncation: Any, store: bool
) -> None:
    backend.reply = HELLO  # of which one message is omitted
    if truncation == "auto":
        assert ask(client, truncation=truncation, store=store).output_text == "Hello there"
        return
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, truncation=truncation, store=store)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("wanted", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar("json_schema", '{"type": "object"}')),
        (
            {"type": "json_schema", "name": "x", "schema": {"type": "integer"}, "strict": True},
            Grammar("json_schema", '{"type": "integer"}'),
        ),
    ],
)
def test_a_text_format_is_a_grammar(
    client: openai.OpenAI, backend: GatedBackend, wanted: Any, grammar: Grammar | None, store: bool
) -> None:
    response = ask(client, text={"format": wanted}, store=store)
    assert backend.requests[0].grammar == grammar
    assert response.text is not None and response.text.format is not None
    assert response.text.format.type == wanted["type"]


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(
    ("effort", "think", "wants"), [("none", False, False), ("high", None, True), (None, None, False)]
)
def test_an_effort_is_a_hint_to_think(
    client: openai.OpenAI,
    backend: GatedBackend,
    effort: Any,
    think: bool | None,
    wants: bool,
    store: bool,
) -> None:
    ask(client, reasoning={"effort": effort}, store=store)
    assert (backend.requests[0].think, backend.requests[0].wants_thinking) == (think, wants)


@pytest.mark.parametrize("store", [True, False])
def test_thinking_can_have_a_budget(client: openai.OpenAI, backend: GatedBackend, store: bool) -> None:
    ask(client, extra_body={"thinking_budget": 5}, store=store)
    assert backend.requests[0].thinking_budget == 5


def test_log_probabilities_come_with_the_text(client: openai.OpenAI, backend: GatedBackend) -> None:
    token = TokenLogprob(5, b"H\xc3", -0.5, (TokenLogprob(5, b"H\xc3", -0.5),))
    backend.reply = (Accepted("r", 3, 0, 20), Delta("r", "H", 1, logprobs=(token,)), WHOLE[-1])
    response = ask(client, include=["message.output_text.logprobs"], top_logprobs=1)
    (message,) = response.output
    assert isinstance(message, ResponseOutputMessage) and message.content[0].type == "output_text"
    logprobs = message.content[0].logprobs
    assert logprobs is not None and (logprobs[0].logprob, logprobs[0].bytes) == (-0.5, [72, 195])
    assert backend.sampling[0].top_logprobs == response.top_logprobs == 1


def test_input_tokens_are_counted_with_the_history(client: openai.OpenAI, backend: GatedBackend) -> None:
    first = ask(client)
    counted = client.responses.input_tokens.count(
        model="stand-in", input="more", previous_response_id=first.id
    )
    assert counted.input_tokens == 7
    assert [message.content for message in last_messages(backend)] == ["hi", "Hello there", "more"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": [{"role": "assistant", "content": "Oh"}]}, "messages"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}, "messages"),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input.0.call_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, None),
        ({"text": {"format": {"type": "json_schema"}}}, None),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"previous_response_id": "resp_x", "conversation": "conv_x"}, "previous_response_id"),
        ({"metadata": {"x": "y" * 513}}, None),
    ],
)
def test_what_cannot_be_honoured_is_a_400_in_openais_form(
    client: openai.OpenAI, backend: GatedBackend, fields: Any, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/responses", cast_to=object, body=BODY | fields)
    assert refused.value.type == "invalid_request_error"
    assert param is None or refused.value.param == param
    assert backend.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "x", "service_tier": "auto", "unheard_of": 1, "prompt_cache_key": "x", "max_tool_calls": 3},
        {"tools": [{"type": "web_search"}, {"type": "custom", "name": "x"}, {"type": "namespace"}]},
        {"include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"}},
        {"temperature": None, "stream": None, "store": None, "metadata": None, "conversation": None},
        {"input": ""},
        {"parallel_tool_calls": True, "tool_choice": "auto"},
    ],
)
@pytest.mark.parametrize("store", [True, False])
def test_what_changes_nothing_is_ignored(
    client: openai.OpenAI, backend: GatedBackend, fields: Any, store: bool
) -> None:
    client.post("/responses", cast_to=object, body=BODY | {"store": store} | fields)
    assert backend.requests[0].tool_use is None


def test_a_deleted_response_is_gone_and_its_conversation_with_it(client: openai.OpenAI) -> None:
    first = ask(client)
    second = ask(client, "more", previous_response_id=first.id)
    assert first.conversation is not None
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        list(client.responses.retrieve(first.id, stream=True))
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, previous_response_id=first.id)
    assert refused.value.code == "previous_response_not_found"
    assert client.responses.retrieve(second.id).output_text == "Hello there"
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(first.conversation.id)


def test_responses_of_another_key_do_not_exist(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    response = ask(client)
    assert response.conversation is not None
    with pytest.raises(openai.NotFoundError):
        stranger.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        stranger.responses.input_items.list(response.id)
    with pytest.raises(openai.NotFoundError):
        list(stranger.responses.retrieve(response.id, stream=True))
    with pytest.raises(openai.BadRequestError):
        ask(stranger, previous_response_id=response.id)
    with pytest.raises(openai.NotFoundError):
        ask(stranger, conversation=response.conversation.id)
    assert client.responses.retrieve(response.id).status == "completed"
