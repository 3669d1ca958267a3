"""No header and no target of a request, whatever it holds, leads to a server error."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from tests.api.fakes import Scripted, fake_app, serving
from tests.api.raw_http import exchange

KEY = "open sesame"
PATHS = [
    "/",
    "/ui",
    "/ui/main.js",
    "/docs",
    "/docs-assets/swagger-ui.css",
    "/health/ready",
    "/api/v1/chat",
    "/api/v1/chat/models",
]
NAMES = [
    *("Accept", "Access-Control-Request-Headers", "Access-Control-Request-Method", "Authorization"),
    *("Content-Encoding", "Content-Type", "Cookie", "Expect", "Forwarded", "Host"),
    *("If-Modified-Since", "If-None-Match", "If-Range", "Origin", "Range", "Referer"),
    *("Upgrade", "X-API-Key", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Request-ID"),
]
VALUES = [
    *(
        "",
        "[",
        "http://[",
        "http://[::1",
        "http://a:b:c",
        "http://\u00e9",
        "//",
        "*",
        "null",
        "bytes=",
        "bytes=9-1",
    ),
    *(
        "bytes=1-2,x",
        "Bearer",
        "Bearer \u00e9",
        "application/json; charset",
        "application/json; charset*=a'b'%ff",
    ),
    *(
        "=?utf-8?b?/w==?=",
        'a; b="',
        "99999999999999999999",
        "-1",
        "1_0",
        "chunked",
        "gzip",
        "localhost:99999",
    ),
    *(
        "localhost:x",
        "user@localhost",
        "websocket",
        "100-continue",
        "Thu, 99 Foo 2026",
        "https",
        "\x80",
        "%ff",
    ),
]
FRAMING = ("Content-Length", "Transfer-Encoding")
values = st.sampled_from(VALUES)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
headers = st.tuples(st.sampled_from(FRAMING), values) | st.tuples(st.sampled_from(NAMES), values | texts)


@pytest.fixture(scope="module", params=[None, KEY], ids=["without a key", "with a key"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    app = fake_app(Scripted(), api_key=request.param, cors_origins=("https://page.example",))
    with serving(app) as url:
        yield url


def status(url: str, method: str, path: str, headers: list[tuple[str, str]]) -> int | None:
    """The status of the reply, or None if the server closed the connection without one."""
    names = {name for name, _ in headers}
    usual = [("Connection", "close"), ("X-API-Key", KEY), ("Host", "localhost"), ("Content-Length", "0")]
    rest = [(name, value) for name, value in usual if name not in names and not names >= {*FRAMING}]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*headers, *rest])]
    last_chunk = "0\r\n\r\n"
    answer = exchange(url, "\r\n".join([*lines, "", last_chunk]).encode("latin-1"))
    return int(answer.split(b" ", 2)[1]) if answer else None


@settings(max_examples=200, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["GET", "POST", "HEAD", "OPTIONS"]), st.sampled_from(PATHS), st.lists(headers, max_size=3)
)
@example("GET", "/health", [("Origin", "http://[")])
@example("GET", "/", [("Host", "[")])
@example("GET", "/docs", [("Host", "http://[")])
@example("GET", "/docs-assets/swagger-ui.css", [("Range", "bytes=1-2,x")])
@example("POST", "/api/v1/chat", [("Content-Type", "application/json; charset*=a'b'%ff")])
def test_no_header_is_a_server_error(
    url: str, method: str, path: str, headers: list[tuple[str, str]]
) -> None:
    found = status(url, method, path, headers)
    assert found is None or found < 500 or (found, path) == (503, "/health/ready"), found


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "FOO"])
@pytest.mark.parametrize(
    "target",
    [
        *("/docs-assets/%00", "/docs-assets/%ff", f"/docs-assets/{'a' * 3000}", "/%00", "/%ff", "/?%ff=%00"),
        *("//[", "//", "http://[/", "http://x/health", "*", "/docs?%5b", "/health#x", "/\u00e9"),
        *("/api/v1/model-info?model_name=%00", "/api/v1/model-info?model_name=~nobody/x"),
        *("/api/v1/chat/conversation/%00", "/api/v1/chat/conversation/..%2f..", "/api/v1/chat/models?%00"),
        f"/api/v1/chat/conversations?limit={'9' * 5000}",
    ],
    ids=lambda target: target[:40],
)
def test_no_target_is_a_server_error(url: str, method: str, target: str) -> None:
    found = status(url, method, target, [])
    assert found is not None and found < 500
