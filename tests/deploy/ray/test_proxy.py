"""What is around Ray's proxy: the headers of requests, and the ends of replies that replicas did not end."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.ray.proxy import Ingress
from tests.waiting import LIMIT_S

Answer = Callable[[Scope, Receive, Send], Awaitable[None]]
STREAM = [(b"content-type", b"text/event-stream; charset=utf-8")]


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def part(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages: Message) -> Answer:
    """A replica that sends these messages and then ends."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return answer


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """A replica that answers with the headers and the body of the request. Ray adds an id to each answer."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    received = b""
    while (message := await receive())["type"] == "http.request":
        received += message["body"]
        if not message["more_body"]:
            break
    body = json.dumps({"headers": headers, "body": received.decode()}).encode()
    ids = [(b"x-request-id", b"one"), (b"x-request-id", b"two")]
    await send(start(200, (b"content-type", b"application/json"), *ids))
    await send(part(body, more=False))


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """A replica that begins a stream and never goes on."""
    await send(start(200, *STREAM))
    await asyncio.wait_for(asyncio.Event().wait(), LIMIT_S)


def fails_first(answer: Answer) -> Answer:
    """A replica that dies at the first request, and then answers."""
    requests = iter([sends()])

    async def reply(scope: Scope, receive: Receive, send: Send) -> None:
        await next(requests, answer)(scope, receive, send)

    return reply


def request(
    replica: ASGIApp, path: str = "/api/v1/chat", limit_s: float = LIMIT_S, **options: Any
) -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(Ingress(replica, max_body_bytes=1000, limit_s=limit_s))
        async with httpx.AsyncClient(transport=transport, base_url="http://ray") as client:
            return await client.post(path, **options)

    return asyncio.run(post())


def test_request_gets_its_session_and_its_model_as_headers_and_keeps_its_body() -> None:
    body = {"model_name": "gpt2", "conversation_id": f"conv_{'a' * 32}"}
    got = request(echo, json=body).json()
    assert got["headers"]["x-session-id"] == f"conv_{'a' * 32}"
    assert got["headers"]["serve_multiplexed_model_id"] == "gpt2"
    assert json.loads(got["body"]) == body


def test_headers_for_ray_are_utf_8() -> None:
    got = request(echo, json={"model": "模型"}, headers={"x-session-id": "é".encode("latin-1")}).json()
    assert got["headers"]["serve_multiplexed_model_id"] == "模型"
    assert got["headers"]["x-session-id"].startswith("conv_")


def test_client_can_set_none_of_rays_own_headers() -> None:
    headers = {
        "x-request-timeout-seconds": "0",
        "x-request-disconnect-disabled": "?1",
        "serve-multiplexed-model-id": "gpt2",
    }
    assert not set(headers) & set(request(echo, headers=headers).json()["headers"])


def test_large_body_is_passed_on_unread() -> None:
    got = request(echo, content=b'{"model": "gpt2", "message": "' + b"x" * 5000 + b'"}').json()
    assert len(got["body"]) > 5000 and "serve_multiplexed_model_id" not in got["headers"]


@pytest.mark.parametrize(("given", "is_kept"), [("mine.1", True), ("not an id", False), ("", False)])
def test_answer_has_one_request_id_which_the_application_has_seen(given: str, is_kept: bool) -> None:
    answer = request(echo, headers={"x-request-id": given} if given else {})
    ids = answer.headers.get_list("x-request-id")
    assert ids == [answer.json()["headers"]["x-request-id"]]
    assert (ids == [given]) == is_kept


@pytest.mark.parametrize(
    ("replica", "status", "code"),
    [
        (sends(), 503, "worker_died"),
        (sends(start(500, (b"content-type", b"text/plain")), part(b"no", more=False)), 503, "worker_died"),
        (sends(start(503, (b"content-type", b"text/plain")), part(b"no", more=False)), 429, "queue_full"),
        (
            sends(start(404, (b"content-type", b"text/plain")), part(b"no", more=False)),
            503,
            "model_unavailable",
        ),
        (
            sends(start(408, (b"content-type", b"text/plain")), part(b"no", more=False)),
            504,
            "deadline_exceeded",
        ),
    ],
)
def test_failure_of_ray_is_an_error_of_the_api(replica: ASGIApp, status: int, code: str) -> None:
    answer = request(replica, headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["x-request-id"] == "mine"
    assert request(replica, "/v1/chat/completions").json()["error"]["type"]
    assert request(replica, "/v1/messages").json()["type"] == "error"


def test_error_of_the_application_is_passed_on() -> None:
    replica = sends(start(503, (b"content-type", b"application/json")), part(b'{"mine": 1}', more=False))
    assert request(replica).json() == {"mine": 1}


@pytest.mark.parametrize(
    ("path", "frame"),
    [
        ("/api/v1/chat", "event: error\ndata: {"),
        ("/v1/responses", "event: error\ndata: {"),
        ("/v1/messages", "event: error\ndata: {"),
        ("/v1/chat/completions", "data: {"),
    ],
)
def test_stream_of_a_replica_that_died_ends_with_an_error_of_its_api(path: str, frame: str) -> None:
    answer = request(sends(start(200, *STREAM), part(b"event: start\ndata: {}\n\n")), path)
    begin, _, last = answer.text.partition("\n\n")
    assert begin == "event: start\ndata: {}" and last.startswith(frame)
    assert "has ended" in last and last.endswith("\n\n")


def test_stream_that_ended_gets_no_second_end() -> None:
    answer = request(sends(start(200, *STREAM), part(b"event: done\ndata: {}\n\n"), part(b"", more=False)))
    assert answer.text == "event: done\ndata: {}\n\n"


def test_reply_ends_at_the_limit_of_time() -> None:
    assert "event: error" in request(hang, limit_s=0.05).text


def test_request_with_an_idempotency_key_is_sent_to_another_replica_if_the_first_has_died() -> None:
    answer = request(fails_first(echo), json={"message": "Hello"}, headers={"idempotency-key": "mine"})
    assert json.loads(answer.json()["body"]) == {"message": "Hello"}


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/api/v1/chat", {}), (f"/api/v1/chat/conversation/conv_{'a' * 32}/undo", {"idempotency-key": "mine"})],
)
def test_request_that_may_have_been_answered_is_not_sent_again(path: str, headers: dict[str, str]) -> None:
    answer = request(fails_first(echo), path, json={"message": "Hello"}, headers=headers)
    assert answer.json()["error"]["code"] == "worker_died"


def test_request_of_a_client_that_has_left_is_not_sent_again() -> None:
    requests: list[str] = []

    async def replica(scope: Scope, receive: Receive, send: Send) -> None:
        requests.append(scope["path"])
        assert (await receive())["type"] == "http.request"
        assert (await receive())["type"] == "http.disconnect"

    async def receive() -> Message:
        return {"type": "http.disconnect"} if requests else {"type": "http.request", "body": b"{}"}

    async def send(message: Message) -> None:
        raise AssertionError("the client has left")

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
    asyncio.run(Ingress(replica, 1000, LIMIT_S)(scope, receive, send))
    assert requests == ["/health"]
