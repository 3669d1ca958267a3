"""Invalid bodies, sent to a real server: each gets a 4xx that names the cause, and changes nothing."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.body import PARSED_BODY, BodyGuard
from app.models.schemas import ChatRequest, GenerateRequest, NewChatRequest
from tests.api.conftest import MAX_BODY_BYTES
from tests.api.fakes import Scripted, fake_app, serving
from tests.api.raw_http import exchange as until_closed
from tests.http_options import LOCAL
from tests.waiting import LIMIT_S

JSON = {"Content-Type": "application/json"}
CHAT = "/api/v1/chat"


def exchange(url: str, request: bytes) -> bytes:
    """The server's reply to bytes that no client library would send."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=LIMIT_S) as connection:
        connection.sendall(request)
        answer = b""
        while b'"}}' not in answer and (part := connection.recv(65_536)):
            answer += part
    return answer


def head(*lines: str) -> bytes:
    head = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, "", ""]).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "hi", "temperature": NaN}', "NaN"),
        (b'{"message": "hi", "temperature": -Infinity}', "-Infinity"),
        (b'{"message": "hi", "temperature": 1e999}', "too large"),
        (b'{"message": "hi", "top_k": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"message": "\\ud800"}', "surrogate"),
        (b'{"message": "hi", "\\uDC00": 1}', "surrogate"),
        (b'{"message": "hi", "stop": ["\\ud83d\\ud83d"]}', "surrogate"),
        (b'{"message": "\xff"}', "UTF-8"),
        (b'{"message": "\xed\xa0\x80"}', "UTF-8"),
        (b'{"message": "hi", "message": "ho"}', '"message" appears more than once'),
        (b'{"message": "hi", "stop": ' + b"[" * 4000, "nested too deeply"),
        (b'{"a":' * 1500 + b"1" + b"}" * 1500, "nested too deeply"),
        (b'{"message": "hi"', "not valid JSON"),
        (b'{"message": "a\nb"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"message": "hi"}', "not valid JSON"),
        ('{"message": "hi"}'.encode("utf-16"), "UTF-8"),
        (b"[]", "must be a JSON object"),
        (b'"hi"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b" ", "not valid JSON"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_body_must_be_a_strict_json_object(
    client: httpx.Client, scripted: Scripted, body: bytes, said: str
) -> None:
    reply = client.post(CHAT, content=body, headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")
    assert said in reply.json()["error"]["message"]
    assert scripted.calls == []


@pytest.fixture(scope="module")
def roomy_url() -> Iterator[str]:
    """A server that accepts bodies of the default size."""
    with serving(fake_app(Scripted())) as url:
        yield url


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (json.dumps(dict.fromkeys(map(str, range(80_000)), 0))[:-1] + ', "7": 0}', 400, '"7" appears more'),
        (json.dumps({"message": "hi"} | dict.fromkeys(map(str, range(80_000)), 0)), 422, "too many fields"),
        (json.dumps({"message": "hi", "stop": [""] * 200_000}), 422, "has more than 16 strings"),
    ],
    ids=["one field twice", "unknown fields", "stop strings"],
)
def test_large_body_with_many_mistakes_is_answered_soon(
    roomy_url: str, body: str, status: int, said: str
) -> None:
    reply = httpx.post(f"{roomy_url}{CHAT}", content=body, headers=JSON, **LOCAL)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_transcript_with_many_mistakes_names_the_first(roomy_url: str) -> None:
    messages = [{"role": "user", "content": "hi", "extra": number} for number in range(10_000)]
    reply = httpx.post(f"{roomy_url}{CHAT}/new", json={"messages": messages}, **LOCAL)
    assert reply.json()["error"]["message"] == "messages.0.extra: unknown field"


class SwappedBody:
    """Replaces the object that the guard has parsed, so that a second parse of the body would show."""

    parsed = {
        CHAT: {"message": "parsed"},
        f"{CHAT}/new": {"title": "parsed"},
        "/api/v1/load-model": {"model_name": "parsed"},
        "/api/v1/generate": {"prompt": "parsed"},
    }

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if PARSED_BODY in scope:
            scope[PARSED_BODY] = self.parsed[scope["path"]]
        await self.app(scope, receive, send)


def test_routes_take_the_object_that_the_guard_has_parsed() -> None:
    scripted = Scripted()
    app = fake_app(scripted)
    app.user_middleware.append(Middleware(SwappedBody))  # the innermost
    with serving(app) as url, httpx.Client(base_url=url, **LOCAL) as client:
        for path in SwappedBody.parsed:
            assert client.post(path, json={"sent": True}).status_code == 200
    assert scripted.calls == [
        ChatRequest(message="parsed"),
        NewChatRequest(title="parsed"),
        "parsed",
        GenerateRequest(prompt="parsed"),
    ]


def test_surrogate_pair_is_one_character(client: httpx.Client, scripted: Scripted) -> None:
    assert client.post(CHAT, content=b'{"message": "\\ud83d\\ude00"}', headers=JSON).status_code == 200
    assert scripted.calls == [ChatRequest(message="\N{GRINNING FACE}")]


@pytest.mark.parametrize(
    "name", ["text/plain", "application/x-www-form-urlencoded", "application/problem+json", ""]
)
def test_other_media_types_are_refused(client: httpx.Client, scripted: Scripted, name: str) -> None:
    reply = client.post(CHAT, content=b'{"message": "hi"}', headers={"Content-Type": name})
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert scripted.calls == []


def test_media_type_may_have_parameters(client: httpx.Client) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post(CHAT, content=b'{"message": "hi"}', headers=headers).status_code == 200


def test_other_character_sets_are_refused(client: httpx.Client, scripted: Scripted) -> None:
    headers = {"Content-Type": "application/json; charset=utf-16"}
    reply = client.post(CHAT, content=b'{"message": "hi"}', headers=headers)
    assert reply.status_code == 415 and "charset" in reply.json()["error"]["message"]
    assert scripted.calls == []


def test_encoded_body_is_refused(client: httpx.Client) -> None:
    reply = client.post(CHAT, content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})
    assert reply.status_code == 415


def test_largest_body_passes_and_a_larger_one_does_not(client: httpx.Client, scripted: Scripted) -> None:
    body = b'{"message": "' + b"x" * (MAX_BODY_BYTES - 15) + b'"}'
    assert client.post(CHAT, content=body, headers=JSON).status_code == 200
    reply = client.post(CHAT, content=body + b" ", headers=JSON)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert len(scripted.calls) == 1


def test_large_chunked_body_is_refused_and_the_reply_arrives(
    client: httpx.Client, scripted: Scripted
) -> None:
    reply = client.post(CHAT, content=(b" " * 100_000 for _ in range(50)), headers=JSON)
    assert reply.status_code == 413
    assert scripted.calls == []


def test_large_declared_size_is_refused_before_the_body_arrives(url: str) -> None:
    answer = exchange(url, head("Content-Length: 99999999999"))
    assert answer.startswith(b"HTTP/1.1 413") and b"connection: close" in answer.lower()


def test_content_length_with_transfer_encoding_is_refused(url: str, scripted: Scripted) -> None:
    lengths = head("Content-Length: 2", "Transfer-Encoding: chunked")
    answer = exchange(url, lengths + b'11\r\n{"message": "hi"}\r\n0\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 400") and b"not both" in answer
    assert scripted.calls == []


@pytest.mark.parametrize("path", [CHAT, "/health", "/nothing"])
def test_connection_is_closed_after_content_length_with_transfer_encoding(url: str, path: str) -> None:
    request = head("Content-Length: 5", "Transfer-Encoding: chunked").replace(CHAT.encode(), path.encode())
    next_request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    answer = until_closed(url, request + b"0\r\n\r\n" + next_request)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer.lower()


def test_bytes_after_the_body_are_not_read_as_a_request(url: str, scripted: Scripted) -> None:
    answer = exchange(url, head("Content-Length: 2") + b'{}{"message": "hi"}')
    assert answer.startswith(b"HTTP/1.1 422")
    assert scripted.calls == []


async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await PlainTextResponse(str(len((await receive())["body"])))(scope, receive, send)


def test_body_that_does_not_arrive_in_time_is_refused() -> None:
    with serving(BodyGuard(echo_length, max_bytes=100, deadline_s=0.05)) as url:
        answer = exchange(url, head("Content-Length: 50") + b"{")
    assert answer.startswith(b"HTTP/1.1 408") and b"body_too_slow" in answer


def test_body_in_pieces_arrives_whole() -> None:
    with serving(BodyGuard(echo_length, max_bytes=100)) as url:
        reply = httpx.post(url, content=iter([b'{"a"', b": ", b"1}"]), headers=JSON, **LOCAL)
    assert reply.text == "8"


def test_client_that_disconnects_while_sending_causes_no_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head("Content-Length: 50") + b"{")
    assert httpx.get(f"{url}/health/live", **LOCAL).status_code == 200
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["message", "temperature", "top_k", "seed", "stop", "max_tokens", "stream", "model_name"]
)


@settings(max_examples=100, database=None, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(fields | st.text(max_size=5), json_values, max_size=5) | st.binary(max_size=50))
def test_no_body_is_a_server_error(client: httpx.Client, body: object) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert client.post(CHAT, content=content, headers=JSON).status_code < 500
