"""The checks of the routes of OpenAI's responses and conversations. Each deletes what it has made."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from app.apicheck.runner import QUESTION, Check, Target, current_model, expect

_RESPONSES, _CONVERSATIONS = "/v1/responses", "/v1/conversations"
_ITEM = {"role": "user", "content": QUESTION}
JsonObject = dict[str, Any]  # Any: JSON


def _asked(target: Target, **fields: object) -> JsonObject:
    body: JsonObject = {"model": current_model(target), "input": QUESTION, "temperature": 0}
    return body | {"max_output_tokens": 24} | fields


def _made(reply: httpx.Response, kind: str) -> JsonObject:
    expect(reply.is_success, f"the status is {reply.status_code}")
    made: JsonObject = reply.json()
    expect(made.get("object") == kind, f"it is no {kind}")
    return made


@contextmanager
def _response(target: Target, **fields: object) -> Iterator[JsonObject]:
    reply = target.http.post(_RESPONSES, json=_asked(target, **fields))
    made = _made(reply, "response")
    try:
        yield made
    finally:
        target.http.delete(f"{_CONVERSATIONS}/{made['conversation']['id']}")


@contextmanager
def _conversation(target: Target) -> Iterator[str]:
    reply = target.http.post(_CONVERSATIONS, json={"items": [_ITEM], "metadata": {"made": "by a check"}})
    path = f"{_CONVERSATIONS}/{_made(reply, 'conversation')['id']}"
    try:
        yield path
    finally:
        target.http.delete(path)


def input_is_answered(target: Target) -> None:
    with _response(target) as made:
        expect(made["status"] in ("completed", "incomplete"), f"its status is {made['status']}")
        expect(made["output"][0]["type"] in ("message", "reasoning"), "it has no message")


def response_is_streamed(target: Target) -> None:
    lines = target.http.post(_RESPONSES, json=_asked(target, stream=True, store=False)).text.splitlines()
    names = [line.removeprefix("event: response.") for line in lines if line.startswith("event: ")]
    expect(names[:2] == ["created", "in_progress"], "it does not begin with response.created")
    expect(names[-1] in ("completed", "incomplete"), f"it ends with {names[-1]}")


def response_continues_another(target: Target) -> None:
    with _response(target) as made:
        body = _asked(target, previous_response_id=made["id"])
        then = target.http.post(_RESPONSES, json=body).json()
        expect(then["conversation"] == made["conversation"], "it is in another conversation")


def response_is_read(target: Target) -> None:
    with _response(target) as made:
        expect(target.http.get(f"{_RESPONSES}/{made['id']}").json() == made, "it differs from the answer")


def response_is_deleted(target: Target) -> None:
    with _response(target) as made:
        path = f"{_RESPONSES}/{made['id']}"
        expect(target.http.delete(path).json()["deleted"] is True, "it is not")
        expect(target.http.get(path).status_code == 404, "it is still there")


def response_is_cancelled(target: Target) -> None:
    with _response(target, background=True) as made:
        reply = target.http.post(f"{_RESPONSES}/{made['id']}/cancel")
        expect(reply.json()["status"] in ("cancelled", "completed", "incomplete"), "it still runs")


def input_items_are_listed(target: Target) -> None:
    with _response(target) as made:
        items = target.http.get(f"{_RESPONSES}/{made['id']}/input_items").json()["data"]
        expect(items[0]["content"][0]["text"] == QUESTION, "the question is missing")


def input_tokens_are_counted(target: Target) -> None:
    reply = target.http.post(f"{_RESPONSES}/input_tokens", json=_asked(target)).json()
    expect(reply["input_tokens"] > 0, "it has no count")


def conversation_is_begun(target: Target) -> None:
    with _conversation(target) as path:
        expect(path.startswith(f"{_CONVERSATIONS}/conv_"), "it has no id")


def conversation_is_described(target: Target) -> None:
    with _conversation(target) as path:
        expect(target.http.get(path).json()["metadata"] == {"made": "by a check"}, "its metadata is missing")


def metadata_is_replaced(target: Target) -> None:
    with _conversation(target) as path:
        changed = target.http.post(path, json={"metadata": {}}).json()
        expect(changed["metadata"] == {}, "it is not")


def conversation_is_deleted_with_its_items(target: Target) -> None:
    with _conversation(target) as path:
        expect(target.http.delete(path).json()["deleted"] is True, "it is not")
        expect(target.http.get(path).status_code == 404, "it is still there")


def items_are_listed(target: Target) -> None:
    with _conversation(target) as path:
        expect(len(target.http.get(f"{path}/items").json()["data"]) == 1, "the item is missing")


def items_are_added(target: Target) -> None:
    with _conversation(target) as path:
        target.http.post(f"{path}/items", json={"items": [_ITEM]})
        expect(len(target.http.get(f"{path}/items").json()["data"]) == 2, "the item is missing")


def item_is_read(target: Target) -> None:
    with _conversation(target) as path:
        (item,) = target.http.get(f"{path}/items").json()["data"]
        expect(target.http.get(f"{path}/items/{item['id']}").json() == item, "it is another one")


def item_is_deleted(target: Target) -> None:
    with _conversation(target) as path:
        (item,) = target.http.get(f"{path}/items").json()["data"]
        target.http.delete(f"{path}/items/{item['id']}")
        expect(target.http.get(f"{path}/items").json()["data"] == [], "it is still there")


_ONE = f"{_CONVERSATIONS}/{{conversation_id}}"
RESPONSE_CHECKS = (
    Check(f"POST {_RESPONSES}", "answers", input_is_answered),
    Check(f"POST {_RESPONSES}", "streams", response_is_streamed),
    Check(f"POST {_RESPONSES}", "continues another response", response_continues_another),
    Check(f"GET {_RESPONSES}/{{response_id}}", "returns what was answered", response_is_read),
    Check(f"DELETE {_RESPONSES}/{{response_id}}", "deletes a response", response_is_deleted),
    Check(f"POST {_RESPONSES}/{{response_id}}/cancel", "stops a response", response_is_cancelled),
    Check(f"GET {_RESPONSES}/{{response_id}}/input_items", "lists the input", input_items_are_listed),
    Check(f"POST {_RESPONSES}/input_tokens", "counts", input_tokens_are_counted),
    Check(f"POST {_CONVERSATIONS}", "starts a conversation", conversation_is_begun),
    Check(f"GET {_ONE}", "returns its metadata", conversation_is_described),
    Check(f"POST {_ONE}", "replaces its metadata", metadata_is_replaced),
    Check(f"DELETE {_ONE}", "deletes a conversation", conversation_is_deleted_with_its_items),
    Check(f"GET {_ONE}/items", "lists the items", items_are_listed),
    Check(f"POST {_ONE}/items", "adds items", items_are_added),
    Check(f"GET {_ONE}/items/{{item_id}}", "returns an item", item_is_read),
    Check(f"DELETE {_ONE}/items/{{item_id}}", "removes an item", item_is_deleted),
)
