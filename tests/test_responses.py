"""Responses of the built-in model with OpenAI's own client, which go on elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.cli.client_process import CLIENT, client_environ
from tests.cli.pseudo_terminal import PseudoTerminal
from tests.server import RunningServer

ASK: Any = {"model": "builtin", "temperature": 0}
CALL: Any = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'}
OUTPUT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "It rains in Oslo."}


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, text: str, **fields: Any) -> Any:  # Any: a response, or a stream of events
    return client.responses.create(input=text, **ASK | fields)


def test_a_conversation_that_a_response_began_goes_on_in_the_native_api(
    client: openai.OpenAI, server: RunningServer
) -> None:
    first = ask(client, "My name is Ada.")
    reply = server.chat("What is my name?", conversation_id=first.conversation.id)
    assert "Ada" in reply["response"]
    own_id = f"resp_{reply['conversation_id'][5:]}{reply['message_id'][4:]}"
    third = ask(client, "What is the capital of France?", previous_response_id=own_id)
    assert "Paris" in third.output_text
    shown = server.get(f"/api/v1/chat/conversation/{first.conversation.id}")
    assert len(shown["messages"]) == 6


def test_a_conversation_that_a_response_began_goes_on_in_the_terminal(
    client: openai.OpenAI, tmp_path: Path, server: RunningServer
) -> None:
    items: list[Any] = [{"role": "user", "content": "Is it raining in Oslo?"}, CALL, OUTPUT]
    begun = client.responses.create(input=[*items, {"role": "user", "content": "My name is Ada."}], **ASK)
    command = [*CLIENT, "--url", server.url, "--resume", "Is it raining in Oslo?"]
    environ = client_environ(XDG_DATA_HOME=str(tmp_path))
    with PseudoTerminal(command, environ, columns=100, rows=60) as terminal:
        terminal.wait_for("Loaded")
        terminal.type("/history\r")
        terminal.wait_for('→ weather {"city": "Oslo"}')
        terminal.wait_for("It rains in Oslo.")
        terminal.type("What is my name?\r")
        terminal.wait_for("Your name is Ada.")
        terminal.type("/quit\r")
        assert terminal.wait_for_end() == 0
    assert begun.conversation is not None
    kinds = [item.type for item in client.conversations.items.list(begun.conversation.id, order="asc")]
    assert kinds == ["message", "function_call", "function_call_output", *["message"] * 4]


class City(BaseModel):
    name: Literal["Paris", "Madrid"]


def test_a_reply_is_parsed_into_a_class(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(input="The capital of France?", text_format=City, **ASK)
    assert isinstance(parsed.output_parsed, City)
    with client.responses.stream(input="The capital of France?", text_format=City, **ASK) as stream:
        assert stream.get_final_response().output_parsed == parsed.output_parsed


def test_a_stream_joined_is_the_whole_response(client: openai.OpenAI) -> None:
    for tokens in range(1, 12):
        fields = {"max_output_tokens": tokens, "store": tokens % 2 == 0}
        whole = ask(client, "What is the capital of France?", **fields)
        events = list(ask(client, "What is the capital of France?", stream=True, **fields))
        joined = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert (joined, events[-1].response.status) == (whole.output_text, whole.status)


def test_a_background_stream_is_resumed(client: openai.OpenAI) -> None:
    events = iter(ask(client, "Tell me about the sea.", stream=True, background=True))
    created = next(events)
    events.close()
    whole = list(client.responses.retrieve(created.response.id, stream=True))
    rest = list(client.responses.retrieve(created.response.id, stream=True, starting_after=5))
    assert rest == whole[6:]
    assert client.responses.retrieve(created.response.id).status in ("completed", "incomplete")
