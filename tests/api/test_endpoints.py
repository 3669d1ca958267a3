"""Each route passes its input to one method of a service and returns the result."""

import httpx
import pytest

from app.models import schemas
from app.models.storage.store import PageRequest
from tests.api.fakes import Scripted

CONVERSATION = "/api/v1/chat/conversation/conv_1"
ONE = ("conv_1",)


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        (
            "/api/v1/chat",
            {"message": "hi", "max_length": 5},
            schemas.ChatRequest(message="hi", max_tokens=5),
        ),
        ("/api/v1/chat/new", {"title": "Names"}, schemas.NewChatRequest(title="Names")),
        (f"{CONVERSATION}/regenerate", {"seed": 0}, (*ONE, schemas.RegenerateRequest(seed=0))),
        (f"{CONVERSATION}/continue", {"max_tokens": 9}, (*ONE, schemas.ContinueRequest(max_tokens=9))),
        (
            f"{CONVERSATION}/edit",
            {"message_id": "msg_1", "message": "hi"},
            (*ONE, schemas.EditRequest(message_id="msg_1", message="hi")),
        ),
        (f"{CONVERSATION}/undo", {"turns": 2}, (*ONE, schemas.UndoRequest(turns=2))),
        (
            f"{CONVERSATION}/select",
            {"message_id": "msg_1"},
            (*ONE, schemas.SelectRequest(message_id="msg_1")),
        ),
        (
            f"{CONVERSATION}/fork",
            {"message_id": "msg_1"},
            (*ONE, schemas.ForkConversationRequest(message_id="msg_1")),
        ),
        ("/api/v1/chat/switch-model", {"model_name": "gpt2"}, "gpt2"),
        ("/api/v1/load-model", {"model_name": "gpt2"}, "gpt2"),
        ("/api/v1/generate", {"prompt": "hi"}, schemas.GenerateRequest(prompt="hi")),
    ],
)
def test_post_passes_its_body_on(
    client: httpx.Client, scripted: Scripted, path: str, body: dict[str, object], call: object
) -> None:
    assert client.post(path, json=body).status_code == 200
    assert scripted.calls == [call]


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/api/v1/chat/new", schemas.NewChatRequest()),
        (f"{CONVERSATION}/regenerate", (*ONE, schemas.RegenerateRequest())),
        (f"{CONVERSATION}/continue", (*ONE, schemas.ContinueRequest())),
        (f"{CONVERSATION}/undo", (*ONE, schemas.UndoRequest())),
        (f"{CONVERSATION}/fork", (*ONE, schemas.ForkConversationRequest())),
        ("/api/v1/load-model", "fake"),
    ],
)
def test_body_may_be_left_out(client: httpx.Client, scripted: Scripted, path: str, call: object) -> None:
    assert client.post(path).status_code == 200
    assert client.post(path, headers={"Content-Type": "application/json"}).status_code == 200
    assert scripted.calls == [call, call]


def test_generation_belongs_to_the_caller(client: httpx.Client, scripted: Scripted) -> None:
    client.post("/api/v1/generate", json={"prompt": "hi"})
    assert scripted.owners == ["default"]


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/generate", "/api/v1/chat/switch-model"])
def test_body_with_required_fields_may_not_be_left_out(client: httpx.Client, path: str) -> None:
    reply = client.post(path)
    assert (reply.status_code, reply.json()["error"]["message"]) == (422, "The request has no body.")


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("GET", CONVERSATION, (*ONE, False)),
        ("GET", f"{CONVERSATION}?tree=true", (*ONE, True)),
        ("DELETE", CONVERSATION, "conv_1"),
        ("DELETE", "/api/v1/chat/turns/msg_1", "msg_1"),
        ("GET", "/api/v1/chat/turns/msg_1/events", ("msg_1", 0)),
        ("GET", "/api/v1/chat/turns/msg_1/events?after=2", ("msg_1", 2)),
        ("GET", "/api/v1/chat/conversations", PageRequest(50)),
        ("GET", "/api/v1/chat/conversations?limit=200&offset=7", PageRequest(200, 7)),
        ("GET", "/api/v1/chat/conversations?cursor=x&query=a b", PageRequest(50, 0, "x", "a b")),
        ("GET", "/api/v1/model-info", None),
        ("GET", "/api/v1/model-info?model_name=gpt2", "gpt2"),
    ],
)
def test_routes_without_a_body(
    client: httpx.Client, scripted: Scripted, method: str, path: str, call: object
) -> None:
    assert client.request(method, path).status_code == 200
    assert scripted.calls == [call]


def test_models_are_listed(client: httpx.Client) -> None:
    listed = client.get("/api/v1/chat/models").json()
    assert listed == {"models": [], "current_model": "fake", "is_hub_reachable": None}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/chat"),
        ("POST", f"{CONVERSATION}/undo"),
        ("DELETE", CONVERSATION),
        ("GET", CONVERSATION),
        ("GET", "/api/v1/chat/models"),
        ("GET", "/api/v1/health"),
        ("GET", "/health/ready"),
        ("GET", "/"),
    ],
)
def test_unknown_query_parameter_is_refused_by_name(
    client: httpx.Client, scripted: Scripted, method: str, path: str
) -> None:
    reply = client.request(method, f"{path}?stream=true&top_k=0", json={} if method == "POST" else None)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "validation_error")
    assert reply.json()["error"]["message"] == ("stream: unknown field; top_k: unknown field")
    assert scripted.calls == []


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health"), ("GET", "/api/v1/chat/models"), ("DELETE", CONVERSATION)]
)
def test_body_is_refused_by_a_route_that_reads_none(
    client: httpx.Client, scripted: Scripted, method: str, path: str
) -> None:
    reply = client.request(method, path, json={"turns": 1})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "This route takes no body.")
    assert scripted.calls == []


def test_a_conversation_is_changed_field_by_field(client: httpx.Client, scripted: Scripted) -> None:
    assert client.patch(CONVERSATION, json={"title": None}).status_code == 200
    assert scripted.calls == [(*ONE, schemas.UpdateConversationRequest(title=None))]
    assert client.patch(CONVERSATION, json={}).status_code == 422


@pytest.mark.parametrize(
    ("path", "field"),
    [("/api/v1/chat/conversations?cursor=x&offset=1", "cursor"), ("/api/v1/chat", "parent_id")],
)
def test_fields_that_contradict_each_other_are_refused(client: httpx.Client, path: str, field: str) -> None:
    body = {"message": "hi", "parent_id": "msg_1"}
    reply = client.get(path) if "?" in path else client.post(path, json=body)
    assert reply.status_code == 422
    assert field in reply.json()["error"]["message"]


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "offset=-1", "page=2"])
def test_invalid_page_names_the_field(client: httpx.Client, scripted: Scripted, query: str) -> None:
    reply = client.get(f"/api/v1/chat/conversations?{query}")
    assert reply.status_code == 422
    assert reply.json()["error"]["message"].startswith(query.partition("=")[0] + ": ")
    assert scripted.calls == []


def test_unknown_query_of_model_info_is_named(client: httpx.Client, scripted: Scripted) -> None:
    reply = client.get("/api/v1/model-info?model=gpt2")
    assert (reply.status_code, reply.json()["error"]["message"]) == (422, "model: unknown field")
    assert scripted.calls == []


@pytest.mark.parametrize("key", ["a", "6f1c-~!", "x" * 200])
def test_idempotency_key_is_passed_on(client: httpx.Client, scripted: Scripted, key: str) -> None:
    headers = {"Idempotency-Key": key}
    assert client.post("/api/v1/chat", json={"message": "hi"}, headers=headers).status_code == 200
    assert scripted.calls == [(schemas.ChatRequest(message="hi"), key)]


@pytest.mark.parametrize("keys", [[""], ["a b"], ["\u00e4".encode()], ["x" * 201], ["a", "b"]])
def test_bad_idempotency_key_is_refused(
    client: httpx.Client, scripted: Scripted, keys: list[str | bytes]
) -> None:
    headers = httpx.Headers(
        [(b"Idempotency-Key", key.encode() if isinstance(key, str) else key) for key in keys]
    )
    reply = client.post("/api/v1/chat", json={"message": "hi"}, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
    assert scripted.calls == []


def test_unknown_turn_is_a_404(client: httpx.Client) -> None:
    reply = client.get("/api/v1/chat/turns/msg_none/events")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "turn_not_found")


def test_a_turn_elsewhere_is_a_404_only_for_who_asks_this_server_alone(client: httpx.Client) -> None:
    path, only_here = "/api/v1/chat/turns/msg_elsewhere", {"X-Only-Here": "1"}
    assert client.get(f"{path}/events").status_code == 200
    assert client.get(f"{path}/events", headers=only_here).status_code == 404
    assert client.delete(path).json()["error"]["code"] == "turn_elsewhere"
    assert client.delete(path, headers=only_here).status_code == 404


def test_unknown_conversation_is_a_404(client: httpx.Client) -> None:
    reply = client.post("/api/v1/chat", json={"message": "hi", "conversation_id": "conv_none"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "conversation_not_found")


def test_unknown_model_names_the_nearest(client: httpx.Client) -> None:
    reply = client.post("/api/v1/chat/switch-model", json={"model_name": "none"})
    assert (reply.status_code, reply.json()["error"]["hint"]) == (404, "Did you mean builtin?")


def test_switch_streams_its_progress(client: httpx.Client) -> None:
    reply = client.post("/api/v1/chat/switch-model", json={"model_name": "gpt2", "stream": True})
    names = [line for line in reply.text.splitlines() if line.startswith("event")]
    assert names == ["event: progress", "event: done"]


@pytest.mark.parametrize(
    "body",
    [
        {"title": " "},
        {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "hi"}]},
    ],
)
def test_blank_title_or_message_of_a_transcript_is_refused(
    client: httpx.Client, scripted: Scripted, body: dict[str, object]
) -> None:
    reply = client.post("/api/v1/chat/new", json=body)
    assert reply.status_code == 422 and "is empty" in reply.json()["error"]["message"]
    assert scripted.calls == []


def test_reply_of_a_transcript_may_be_empty(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}]
    assert client.post("/api/v1/chat/new", json={"messages": messages}).status_code == 200


@pytest.mark.parametrize(
    ("limits", "max_tokens"),
    [
        ({"max_tokens": None, "max_length": None}, None),
        ({"max_tokens": None, "max_length": 5}, 5),
        ({"max_tokens": 5, "max_length": None}, 5),
        ({"max_length": None}, None),
    ],
)
@pytest.mark.parametrize(("path", "text"), [("chat", "message"), ("generate", "prompt")])
def test_null_counts_as_left_out_for_both_names_of_a_field(
    client: httpx.Client,
    scripted: Scripted,
    path: str,
    text: str,
    limits: dict[str, object],
    max_tokens: int | None,
) -> None:
    assert client.post(f"/api/v1/{path}", json={text: "hi"} | limits).status_code == 200
    request = scripted.calls[0]
    assert isinstance(request, schemas.SamplingFields) and request.max_tokens == max_tokens
