"""Responses that go on without their client: begun, followed, resumed, cancelled."""

from typing import Any

import openai
import pytest

from tests.api.openai.responses.conftest import GatedBackend
from tests.waiting import wait_for


def begin(client: openai.OpenAI, **fields: Any) -> Any:  # Any: a response, or a stream of events
    return client.responses.create(model="stand-in", input="hi", background=True, **fields)


def test_a_background_response_is_answered_at_once(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    response = begin(client)
    assert response.status in ("queued", "in_progress") and response.background
    wait_for(lambda: client.responses.retrieve(response.id).output_text == "Hello there", "the text")
    assert client.responses.retrieve(response.id).status == "in_progress"
    backend.gate.set()
    wait_for(lambda: client.responses.retrieve(response.id).status == "completed", "the end")


def test_nothing_follows_a_response_that_runs(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    running = begin(client)
    with pytest.raises(openai.ConflictError):
        client.responses.create(model="stand-in", input="And?", previous_response_id=running.id)
    with pytest.raises(openai.ConflictError):
        client.responses.input_items.list(running.id)
    with pytest.raises(openai.ConflictError):
        client.responses.delete(running.id)
    backend.gate.set()
    wait_for(lambda: client.responses.retrieve(running.id).status == "completed", "the end")
    followed = client.responses.create(model="stand-in", input="And?", previous_response_id=running.id)
    assert followed.previous_response_id == running.id


def test_a_stream_is_resumed_after_any_event(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    stream = begin(client, stream=True)
    created = next(iter(stream))
    stream.close()
    backend.gate.set()
    whole = list(client.responses.retrieve(created.response.id, stream=True))
    assert [event.sequence_number for event in whole] == list(range(len(whole)))
    assert [event.type for event in whole[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    assert whole[0].type == "response.created" and whole[0].response.id == created.response.id
    for number in range(len(whole)):
        rest = list(client.responses.retrieve(created.response.id, stream=True, starting_after=number))
        assert rest == whole[number + 1 :]


def test_the_stream_helper_follows_a_background_response(
    client: openai.OpenAI, backend: GatedBackend
) -> None:
    response = begin(client)
    with client.responses.stream(response_id=response.id, starting_after=5) as stream:
        events = list(stream)
    assert events[0].sequence_number == 6
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "Hello there"


def test_a_response_that_is_cancelled_keeps_its_text(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    response = begin(client)
    wait_for(lambda: client.responses.retrieve(response.id).output_text == "Hello there", "the text")
    cancelled = client.responses.cancel(response.id)
    backend.gate.set()
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "Hello there")
    assert client.responses.cancel(response.id) == cancelled == client.responses.retrieve(response.id)
    last = list(client.responses.retrieve(response.id, stream=True))[-1]
    assert last.type == "response.incomplete" and last.response.status == "cancelled"


def test_a_running_response_cannot_be_deleted(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    response = begin(client)
    with pytest.raises(openai.ConflictError):
        client.responses.delete(response.id)
    backend.gate.set()
    wait_for(lambda: client.responses.retrieve(response.id).status == "completed", "the end")
    client.responses.delete(response.id)


def test_cancelling_a_complete_response_changes_nothing(client: openai.OpenAI) -> None:
    response = client.responses.create(model="stand-in", input="hi")
    assert client.responses.cancel(response.id).model_dump() == response.model_dump()


def test_a_client_that_leaves_cancels_its_response(client: openai.OpenAI, backend: GatedBackend) -> None:
    backend.gate.clear()
    events = client.responses.create(model="stand-in", input="hi", stream=True)
    created = next(iter(events))
    events.close()
    assert created.type == "response.created"
    wait_for(lambda: client.responses.retrieve(created.response.id).status == "cancelled", "the end")
    backend.gate.set()


def test_an_early_error_of_a_background_response_is_kept(
    client: openai.OpenAI, backend: GatedBackend
) -> None:
    backend.deaths = [0, 0]
    response = begin(client)
    wait_for(lambda: client.responses.retrieve(response.id).status == "failed", "the failure")
    failed = client.responses.retrieve(response.id)
    assert failed.error is not None and "signal 9" in failed.error.message


def test_an_unknown_response_cannot_be_followed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        list(client.responses.retrieve(f"resp_{'0' * 64}", stream=True))
