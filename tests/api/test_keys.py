"""Hostile keys: every way of sending one that is not exactly one key of the server's is the same refusal."""

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, strategies as st

from app.api.http_protocol import DeadlineProtocol
from app.api.middleware import KeyCheck
from app.core.errors import NotAuthenticated
from tests.api.fakes import Scripted, fake_app, keys_of, serving
from tests.api.raw_http import exchange
from tests.http_options import LOCAL

KEYS = "alice:key-a,bob:key:b,carol:schlüssel"
OPEN = {"/", "/ui", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready"}
OPEN |= {f"/api/v1{path}" for path in OPEN if path.startswith("/health")}
Pairs = list[tuple[str, bytes]]


def owner_of(headers: Pairs) -> str | None:
    """The owner of a request with these headers, which may repeat."""
    pairs = [(name.encode(), value) for name, value in headers]
    return KeyCheck(keys_of(api_keys=KEYS))({"type": "http", "path": "/api/v1/chat", "headers": pairs})


@pytest.fixture(scope="module")
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def locked_url(scripted: Scripted) -> Iterator[str]:
    with serving(fake_app(scripted, api_keys=KEYS), http=DeadlineProtocol) as url:
        yield url


def answer(url: str, *headers: bytes, path: str = "/api/v1/chat/models", method: str = "GET") -> bytes:
    """Everything that the server sends, but for the date."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: localhost", b"x-request-id: same", *headers]
    answered = exchange(url, b"\r\n".join([*lines, b"Connection: close", b"", b""]))
    return b"\r\n".join(line for line in answered.split(b"\r\n") if not line.startswith(b"date: "))


@pytest.mark.parametrize(
    ("headers", "owner"),
    [
        ([("authorization", b"Bearer key-a")], "alice"),
        ([("authorization", b"bearer key-a")], "alice"),
        ([("authorization", b"BEARER \t key-a ")], "alice"),
        ([("x-api-key", b"key:b")], "bob"),
        ([("x-api-key", "schlüssel".encode())], "carol"),
        ([("authorization", b"Bearer key-a"), ("authorization", b"Bearer key-a")], "alice"),
        ([("authorization", b"Bearer key-a"), ("x-api-key", b"key-a")], "alice"),
        ([("authorization", b"Bearer key-a"), ("x-api-key", b"")], "alice"),
        ([("authorization", b"Basic YTpi"), ("x-api-key", b"key-a")], "alice"),
        ([("x-api-key", b"key-a"), ("x-api-key", b"key-a")], "alice"),
    ],
)
def test_one_key_is_accepted_wherever_it_is(headers: Pairs, owner: str) -> None:
    assert owner_of(headers) == owner


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", b"Bearer key-a"), ("authorization", b"Bearer key:b")],
        [("authorization", b"Bearer key-a"), ("authorization", b"Bearer wrong")],
        [("authorization", b"Bearer key-a"), ("x-api-key", b"key:b")],
        [("authorization", b"Bearer key-a"), ("x-api-key", b"wrong")],
        [("authorization", b"Bearer wrong"), ("x-api-key", b"key-a")],
        [("x-api-key", b"key-a"), ("x-api-key", b"key:b")],
        [("authorization", b"Bearer Bearer key-a")],
        [("authorization", b"Bearer key-a, Bearer key-a")],
        [("authorization", b"Bearerkey-a")],
        [("authorization", b"key-a")],
        [("authorization", b"Token key-a")],
        [("authorization", b"Bearer")],
        [("x-api-key", b"Bearer key-a")],
        [("x-api-key", b"KEY-A")],
        [("x-api-key", b"key-a\x00")],
        [("x-api-key", "schlüssel".encode("latin-1"))],
        [("x-api-key", bytes(range(128, 256)))],
        [("x-api-key", b"alice")],
        [("x-api-key", b"alice:key-a")],
        [("x-api-key", b"k" * 1_000_000)],
        [("api-key", b"key-a")],
        [("cookie", b"x-api-key=key-a")],
    ],
)
def test_anything_else_is_refused(headers: Pairs) -> None:
    with pytest.raises(NotAuthenticated):
        owner_of(headers)


@given(
    st.lists(
        st.tuples(st.sampled_from(["authorization", "x-api-key", "x"]), st.binary(max_size=20)), max_size=4
    )
)
def test_any_bytes_are_refused_without_another_error(headers: Pairs) -> None:
    with pytest.raises(NotAuthenticated):
        owner_of(headers)


PATHS = pytest.mark.parametrize("path", ["/api/v1/chat/models", "/v1/models", "/v1/messages", "/nothing"])


@pytest.mark.parametrize(
    "header",
    [b"x-api-key: key-", b"x-api-key: key-ab", b"x-api-key: \xff\xfe", b"Authorization: Bearer wrong"],
)
@PATHS
def test_all_wrong_keys_are_answered_with_the_same_bytes(locked_url: str, header: bytes, path: str) -> None:
    wrong = answer(locked_url, b"x-api-key: another", path=path)
    assert wrong.startswith(b"HTTP/1.1 401 ")
    assert answer(locked_url, header, path=path) == wrong


@pytest.mark.parametrize(
    "header",
    [b"Authorization: Bearer key-a\r\nX-API-Key: key:b", b"Authorization: Basic " + b"x" * 10_000],
)
@PATHS
def test_what_is_not_one_key_is_answered_with_the_bytes_for_a_missing_key(
    locked_url: str, header: bytes, path: str
) -> None:
    missing = answer(locked_url, path=path)
    assert missing.startswith(b"HTTP/1.1 401 ")
    assert answer(locked_url, header, path=path) == missing


def test_key_of_a_megabyte_is_refused_and_the_server_goes_on(locked_url: str) -> None:
    for header in (b"X-API-Key: ", b"Authorization: Bearer "):
        try:
            answered = answer(locked_url, header + b"k" * 1_000_000)
        except ConnectionError:  # the server closed the connection before it had read all
            continue
        assert answered == b"" or answered[9:12] in (b"400", b"401", b"431")
    assert answer(locked_url, b"X-API-Key: key-a").startswith(b"HTTP/1.1 200 ")


def test_every_route_is_refused_before_its_body_is_read(locked_url: str, scripted: Scripted) -> None:
    app = fake_app(Scripted(), api_keys=KEYS)
    body = (b"Content-Type: application/json", b"Content-Length: 100000", b"Expect: 100-continue")
    asked = 0
    for path, operations in app.openapi()["paths"].items():
        for method in operations if path not in OPEN else ():
            refused = answer(locked_url, *body, path=path, method=method.upper())
            assert refused.startswith(b"HTTP/1.1 401 "), (method, path)
            assert refused == answer(locked_url, path=path, method=method.upper()), (method, path)
            asked += 1
    assert asked > 10 and scripted.calls == []


@pytest.mark.parametrize(
    "path",
    [
        "/health/../api/v1/chat/models",
        "/docs-assets/../api/v1/chat/models",
        "/docs-assets/%2e%2e/api/v1/chat/models",
        "/docs-assets/..%2fapi/v1/chat/models",
        "/docs-assets/../../../../../../etc/passwd",
        "/docs/../api/v1/chat/models",
        "//api/v1/chat/models",
        "/./api/v1/chat/models",
        "/api/v1/chat/models/",
        "/api/v1/chat/models;/health",
        "/api/v1/chat/models%00/health",
        "/API/V1/chat/models",
        "/api/v1/health/../chat/models",
        "/api/v1/chat/models?/health",
        "/api/v1/chat/models#/health",
        "http://localhost/api/v1/chat/models",
    ],
)
def test_no_spelling_of_a_path_reaches_a_route_without_a_key(locked_url: str, path: str) -> None:
    assert answer(locked_url, path=path)[9:12] in (b"400", b"401", b"404")


def test_methods_of_routes_are_not_revealed_without_a_key(locked_url: str) -> None:
    with httpx.Client(base_url=locked_url, **LOCAL) as client:
        for method in ("GET", "PUT", "OPTIONS", "TRACE", "PROPFIND"):
            reply = client.request(method, "/api/v1/chat")
            assert (reply.status_code, "allow" in reply.headers) == (401, False)
