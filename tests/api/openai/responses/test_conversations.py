"""Conversations and their items with OpenAI's own client."""

from typing import Any

import openai
import pytest

from app.engine.ipc.messages import ChatMessage
from tests.api.openai.responses.conftest import GatedBackend

ITEMS: list[Any] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Rain."},
]


def kinds(client: openai.OpenAI, conversation_id: str) -> list[str]:
    return [item.type for item in client.conversations.items.list(conversation_id, order="asc")]


def test_a_conversation_is_created_changed_and_deleted(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "demo"})
    assert made.id.startswith("conv_") and made.metadata == {"topic": "demo"}
    changed = client.conversations.update(made.id, metadata={"topic": "other"})
    assert changed.metadata == {"topic": "other"} and changed.created_at == made.created_at
    assert client.conversations.retrieve(made.id) == changed
    assert client.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as refused:
        client.conversations.retrieve(made.id)
    assert refused.value.code == "conversation_not_found"


def test_metadata_is_removed_only_if_a_request_says_so(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "demo"})
    path = f"/conversations/{made.id}"
    with pytest.raises(openai.APIStatusError) as refused:
        client.post(path, cast_to=object, body={})
    assert refused.value.status_code == 400
    assert client.conversations.retrieve(made.id).metadata == {"topic": "demo"}
    assert client.conversations.update(made.id, metadata=None).metadata == {}


def test_items_are_kept_listed_and_found(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=ITEMS)
    assert kinds(client, made.id) == ["message", "message", "function_call", "function_call_output"]
    added = client.conversations.items.create(made.id, items=[{"role": "user", "content": "And?"}])
    (item,) = added.data
    assert item.type == "message" and item.id is not None
    assert client.conversations.items.retrieve(item.id, conversation_id=made.id) == item
    newest = next(iter(client.conversations.items.list(made.id, limit=1)))
    assert newest == item
    with pytest.raises(openai.NotFoundError) as refused:
        client.conversations.items.retrieve("msg_0", conversation_id=made.id)
    assert refused.value.code == "item_not_found"


def test_a_response_answers_the_items_of_its_conversation(
    client: openai.OpenAI, backend: GatedBackend
) -> None:
    made = client.conversations.create(items=ITEMS)
    response = client.responses.create(model="stand-in", conversation=made.id)
    assert response.conversation is not None and response.conversation.id == made.id
    messages = backend.requests[0].messages or ()
    assert messages[0] == ChatMessage("system", "Be kind.")
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool"]
    assert kinds(client, made.id)[-2:] == ["reasoning", "message"]
    client.responses.create(model="stand-in", conversation={"id": made.id}, input="And?", store=False)
    assert [message.content for message in backend.requests[1].messages or ()][-2:] == ["Hello there", "And?"]
    assert kinds(client, made.id)[-2:] == ["reasoning", "message"]


def test_a_deleted_item_is_not_read_by_the_model_any_more(
    client: openai.OpenAI, backend: GatedBackend
) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": text} for text in "abc"])
    second = list(client.conversations.items.list(made.id, order="asc"))[1]
    assert second.id is not None
    client.conversations.items.delete(second.id, conversation_id=made.id)
    client.responses.create(model="stand-in", conversation=made.id)
    assert [message.content for message in backend.requests[0].messages or ()] == ["a\n\nc"]


def test_one_part_of_a_reply_may_be_deleted(client: openai.OpenAI) -> None:
    response = client.responses.create(model="stand-in", input="hi")
    assert response.conversation is not None
    reasoning = response.output[0]
    assert reasoning.id is not None
    client.conversations.items.delete(reasoning.id, conversation_id=response.conversation.id)
    assert kinds(client, response.conversation.id) == ["message", "message"]
    assert client.responses.retrieve(response.id) == response


def test_deleting_a_response_leaves_its_own_conversation(client: openai.OpenAI) -> None:
    made = client.conversations.create()
    response = client.responses.create(model="stand-in", conversation=made.id, input="hi")
    client.responses.delete(response.id)
    assert kinds(client, made.id) == ["message", "reasoning", "message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [{"type": "item_reference", "id": "x"}]}, "items[0]"),
        ({"items": [{"role": "user", "content": [{"type": "input_file"}]}]}, "items[0].content[0]"),
        ({"items": "hi"}, "items"),
        ({"metadata": {"x": 1}}, None),
    ],
)
def test_wrong_items_are_refused_in_openais_form(client: openai.OpenAI, body: Any, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.post("/conversations", cast_to=object, body=body)
    assert param is None or refused.value.param == param


def test_conversations_of_another_key_do_not_exist(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    made = client.conversations.create(items=ITEMS)
    (first, *_) = client.conversations.items.list(made.id)
    assert first.id is not None
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.update(made.id, metadata={})
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.items.list(made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.items.retrieve(first.id, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.items.delete(first.id, conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.items.create(made.id, items=ITEMS[1:2])
    with pytest.raises(openai.NotFoundError):
        stranger.conversations.delete(made.id)
    assert len(kinds(client, made.id)) == len(ITEMS)
