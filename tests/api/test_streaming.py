"""Streams and collected replies, through a real server, and clients that disconnect."""

import json
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.api.native.events import encode
from app.api.streaming import respond
from tests.api.fakes import LINE_ENDS, REPLY, Scripted, serving
from tests.api.raw_http import leave
from tests.http_options import LOCAL
from tests.waiting import LIMIT_S


def frames(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The name and the data of each event, whose ids must count from 1 on."""
    events = [block.split("\n") for block in text.split("\n\n") if block and not block.startswith(":")]
    assert [last for _, _, last in events] == [f"id: {number}" for number in range(1, len(events) + 1)]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data, _ in events
    ]


def ask(client: httpx.Client, message: str, **body: object) -> httpx.Response:
    return client.post("/api/v1/chat", json={"message": message, **body})


def test_stream_gives_start_deltas_and_done(client: httpx.Client) -> None:
    reply = ask(client, "hello", stream=True)
    events = frames(reply.text)
    assert [name for name, _ in events] == ["start", "delta", "delta", "done"]
    assert "".join(data["text"] for name, data in events if name == "delta") == REPLY.response
    assert events[-1][1] == REPLY.model_dump(mode="json")


def test_stream_has_the_headers_that_proxies_need(client: httpx.Client) -> None:
    headers = ask(client, "hello", stream=True).headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"


def test_collected_reply_is_the_last_event(client: httpx.Client) -> None:
    reply = ask(client, "hello")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == REPLY.model_dump(mode="json")


def test_text_cannot_break_a_frame(client: httpx.Client) -> None:
    reply = ask(client, "line ends", stream=True)
    data = [line for line in reply.text.splitlines() if line.startswith("data: ")]
    assert json.loads(data[2].removeprefix("data: ")) == {"text": LINE_ENDS}


@pytest.mark.parametrize("stream", [False, True])
def test_error_before_the_first_event_is_a_status(client: httpx.Client, stream: bool) -> None:
    reply = ask(client, "busy", stream=stream)
    assert reply.status_code == 409
    assert reply.headers["retry-after"] == "3"
    assert reply.json()["error"]["code"] == "conversation_busy"


def test_error_after_the_first_event_is_one_error_event(client: httpx.Client) -> None:
    reply = ask(client, "die", stream=True)
    events = frames(reply.text)
    assert reply.status_code == 200
    assert [name for name, _ in events] == ["start", "delta", "error"]
    assert events[-1][1] == {
        "error": {"code": "worker_died", "message": "The worker died.", "hint": "Ask again."}
    }


def events_after(client: httpx.Client, message_id: str, after: int) -> httpx.Response:
    return client.get(f"/api/v1/chat/turns/{message_id}/events", params={"after": after})


@pytest.mark.parametrize(
    ("after", "names"), [(0, ["start", "delta", "error"]), (1, ["delta", "error"]), (2, ["error"])]
)
def test_events_of_a_failed_turn_end_with_the_same_error(
    client: httpx.Client, after: int, names: list[str]
) -> None:
    reply = events_after(client, "msg_dead", after)
    blocks = reply.text.strip().split("\n\n")
    assert reply.status_code == 200
    assert [block.split("\n")[0] for block in blocks] == [f"event: {name}" for name in names]
    assert blocks[-1].endswith("\nid: 3")


def test_events_after_the_last_one_are_no_content(client: httpx.Client) -> None:
    reply = events_after(client, "msg_1", 4)
    assert (reply.status_code, reply.content) == (204, b"")


def test_events_begin_after_the_last_one_that_a_browser_has_read(client: httpx.Client) -> None:
    path = "/api/v1/chat/turns/msg_1/events?after=1"
    reply = client.get(path, headers={"Last-Event-ID": "3"})
    assert reply.text.startswith("event: done\n")
    assert client.get(path, headers={"Last-Event-ID": "x"}).status_code == 422


def test_stream_without_a_turn_has_no_ids(client: httpx.Client) -> None:
    reply = client.post("/api/v1/generate", json={"prompt": "hello", "stream": True})
    assert "event: done" in reply.text and "id: " not in reply.text


def test_late_error_of_a_collected_reply_is_a_status(client: httpx.Client) -> None:
    assert ask(client, "die").status_code == 503


def test_bug_in_a_stream_is_reported_without_its_details(client: httpx.Client) -> None:
    reply = ask(client, "bug later", stream=True)
    name, data = frames(reply.text)[-1]
    assert (name, data["error"]["code"]) == ("error", "internal_error")
    assert "secret" not in reply.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("message", ["hang", "hang at once"])
def test_client_that_disconnects_cancels_the_work(
    url: str, scripted: Scripted, message: str, stream: bool
) -> None:
    leave(url, "/api/v1/chat", {"message": message, "stream": stream}, when=scripted.waiting)
    assert scripted.cancelled.wait(LIMIT_S)


def test_keep_alive_is_sent_while_no_events_come(scripted: Scripted) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await respond(scripted.run("hang"), True, encode, None, keep_alive_s=0.01)(scope, receive, send)

    with serving(app) as url, httpx.stream("POST", url, **LOCAL) as reply:
        lines = reply.iter_lines()
        assert [next(lines) for _ in range(6)][::3] == ["event: start", "event: delta"]  # without ids
        assert [next(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]
    assert scripted.cancelled.wait(LIMIT_S)
