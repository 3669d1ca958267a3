import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest

from app.cli.errors import ClientError, NotOurServer, Refused, StreamBroken, Unreachable
from app.cli.net.client import ChatClient
from app.models.schemas import ChatRequest, ChatResponse, DeltaEvent, ModelListResponse, StartEvent
from tests.cli.stand_in.state import StandIn

Answer = Callable[[httpx.Request], httpx.Response]


def _ask(answer: Answer, call: Callable[[ChatClient], Coroutine[Any, Any, object]]) -> object:
    async def ask() -> object:
        async with ChatClient("http://server", "key", httpx.MockTransport(answer)) as client:
            return await call(client)

    return asyncio.run(ask())


async def _stream(client: ChatClient) -> list[object]:
    return [event async for event in client.chat(ChatRequest(message="hello", stream=True))]


def _raises(error: Exception) -> Answer:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "kind", "expected"),
    [
        (_raises(httpx.ConnectError("no")), Unreachable, "connecting failed: no"),
        (_raises(httpx.ReadTimeout("slow")), Unreachable, "timed out"),
        (lambda request: httpx.Response(404, html="<p>nginx"), NotOurServer, "is not llm-serving"),
        (lambda request: httpx.Response(200, json={"status": "ok"}), NotOurServer, "differences"),
        (lambda request: httpx.Response(200, content=b"\xff"), NotOurServer, "differences"),
        (
            lambda request: httpx.Response(429, json={"error": {"code": "queue_full", "message": "Full."}}),
            Refused,
            "Full.",
        ),
    ],
)
def test_call_raises_a_client_error(answer: Answer, kind: type[ClientError], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        _ask(answer, lambda client: client.health())


def test_refusal_keeps_code_status_and_retry_time() -> None:
    body = {"error": {"code": "queue_full", "message": "Full.", "retry_after": 3}}
    with pytest.raises(Refused) as caught:
        _ask(lambda request: httpx.Response(429, json=body), _stream)
    assert (caught.value.code, caught.value.status, caught.value.hint) == (
        "queue_full",
        429,
        "Try again in 3 s.",
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("not_authenticated", "--api-key"),
        ("validation_error", "/set"),
        ("conversation_not_found", "/new"),
        ("conversation_full", "/undo"),
        ("context_length_exceeded", "/undo or /new"),
        ("not_found", "same version"),
        ("method_not_allowed", "same version"),
        ("model_offline", "GET / tells more"),  # the server's own hint
    ],
)
def test_hints_for_programmers_are_replaced(code: str, expected: str) -> None:
    body = {"error": {"code": code, "message": "No.", "hint": "GET / tells more."}}
    with pytest.raises(Refused) as caught:
        _ask(lambda request: httpx.Response(400, json=body), lambda client: client.models())
    assert expected in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", StreamBroken),
        (b'event: delta\ndata: {"text": "a"}\n\n', StreamBroken),
        (b'event: delta\ndata: {"txt": "a"}\n\n', NotOurServer),
        (b'event: error\ndata: {"error": {"code": "worker_died", "message": "gone"}}\n\n', Refused),
    ],
)
def test_stream_that_ends_without_its_last_event_is_an_error(content: bytes, kind: type[ClientError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=content, headers={"Content-Type": "text/event-stream"})

    with pytest.raises(kind):
        _ask(answer, _stream)


def test_response_of_a_newer_server_is_accepted() -> None:
    body = {"models": [], "current_model": "builtin", "invented_later": 1}
    listing = _ask(lambda request: httpx.Response(200, json=body), lambda client: client.models())
    assert listing == ModelListResponse(models=[], current_model="builtin")


START = StartEvent(model_name="builtin", model_id="builtin", prompt_tokens=1, omitted_messages=0)


@pytest.mark.parametrize(
    ("begun", "hint"),
    [(": waiting", "No answer has begun."), (f"event: start\ndata: {START.model_dump_json()}", "is kept")],
)
def test_broken_stream_is_reported_in_plain_words(begun: str, hint: str) -> None:
    class Torn(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield f"{begun}\n\n".encode()
            raise httpx.RemoteProtocolError("peer closed connection (incomplete chunked read)")

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Torn(), headers={"Content-Type": "text/event-stream"})

    with pytest.raises(StreamBroken, match="was lost: the stream ended early") as caught:
        _ask(answer, _stream)
    assert hint in str(caught.value.hint)


def test_response_without_a_stream_is_not_our_server() -> None:
    with pytest.raises(NotOurServer):
        _ask(lambda request: httpx.Response(200, json={}), _stream)


def test_key_and_body_are_sent_unchanged() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer key"
        assert request.content == b'{"message":"hello","stream":true}'
        return httpx.Response(401, json={"error": {"code": "not_authenticated", "message": "Wrong key."}})

    with pytest.raises(Refused, match="Wrong key"):
        _ask(answer, _stream)


def test_stream_from_a_server_is_start_deltas_done(standin: StandIn, url: str) -> None:
    async def ask() -> list[object]:
        async with ChatClient(url) as client:
            return await _stream(client)

    first, *deltas, last = asyncio.run(ask())
    assert isinstance(first, StartEvent) and isinstance(last, ChatResponse)
    assert "".join(delta.text for delta in deltas if isinstance(delta, DeltaEvent)) == "You said: hello"
