"""Hosts, origins and keys that are accepted, and the access log."""

import logging
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette._utils import get_route_path  # private: the definition that the routes use
from starlette.routing import Route
from starlette.types import Scope

from app.api.middleware import HostCheck, KeyCheck
from app.api.paths import path_below_prefix
from app.core.api_keys import DEFAULT_OWNER
from app.core.errors import ForbiddenHost, NotAuthenticated
from tests.api.fakes import Scripted, fake_app, keys_of, serving
from tests.http_options import LOCAL

KEY = "open sesame"
OPEN = {"/", "/ui", "/docs", "/openapi.json", "/health", "/health/live", "/health/ready"}
OPEN |= {f"/api/v1{path}" for path in OPEN if path.startswith("/health")}


def scope(path: str = "/api/v1/chat", **headers: str) -> Scope:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "path": path, "headers": pairs}


# Hosts and origins


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "api.localhost", "127.0.0.1:80", "10.1.2.3", "[::1]:8000", "[fe80::1]"]
    + [socket.gethostname(), "models.example.org:8000"],
)
def test_host_check_accepts_its_own_names(host: str) -> None:
    HostCheck(["models.example.org"], [])(scope(host=host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "testserver",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[",
        "evil@localhost.x",
    ],
)
def test_host_check_refuses_other_names(host: str) -> None:
    with pytest.raises(ForbiddenHost):
        HostCheck(["models.example.org"], [])(scope(host=host))


def test_host_check_refuses_a_request_without_a_host() -> None:
    with pytest.raises(ForbiddenHost):
        HostCheck([], [])(scope())


def test_star_allows_every_host() -> None:
    HostCheck(["*"], [])(scope(host="evil.example"))


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "https://LOCALHOST:8000", "https://page.example"]
)
def test_host_check_accepts_its_own_and_allowed_origins(origin: str) -> None:
    HostCheck([], ["https://page.example"])(scope(host="localhost:8000", origin=origin))


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:9000", "null", "http://page.example", "[", "http://["]
)
def test_host_check_refuses_other_origins(origin: str) -> None:
    with pytest.raises(ForbiddenHost):
        HostCheck([], ["https://page.example"])(scope(host="localhost:8000", origin=origin))


def test_foreign_host_is_refused_before_anything_happens(client: httpx.Client, scripted: Scripted) -> None:
    reply = client.post("/api/v1/chat/new", headers={"Host": "evil.example"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden_host")
    assert scripted.calls == []


# Keys


@pytest.fixture(scope="module")
def locked_url() -> Iterator[str]:
    with serving(fake_app(Scripted(), api_key=KEY, cors_origins=("https://page.example",))) as url:
        yield url


@pytest.fixture
def locked(locked_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked_url, **LOCAL) as client:
        yield client


def test_every_route_but_the_open_ones_requires_the_key(locked: httpx.Client) -> None:
    app = fake_app(Scripted(), api_key=KEY)
    plain = {route.path for route in app.routes if isinstance(route, Route)}
    paths = (
        plain - {"/ui/"}
        | set(app.openapi()["paths"])
        | {"/api/v1/nothing", "/docs-assets", "/health/", "/redoc"}
    )
    for path in paths:
        for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
            is_refused = locked.request(method, path).status_code == 401
            assert is_refused == (path not in OPEN), (method, path)


@pytest.mark.parametrize("prefix", ["/llm", "/llm/", "/health", "/docs"])
def test_prefix_of_a_proxy_changes_nothing_about_the_key(prefix: str) -> None:
    app = fake_app(Scripted(), api_key=KEY)
    with (
        serving(app, root_path=prefix) as url,
        httpx.Client(base_url=url, **LOCAL) as client,
    ):
        for path in OPEN | {"/docs-assets/swagger-ui.css"}:
            assert client.get(path).status_code == 200, path
        for path in (
            "/api/v1/chat/models",
            "/docs/x",
            "/health/x",
            "/nothing",
            "/llm/health",
            "/docs-assets",
        ):
            assert client.get(path).status_code == 401, path


@pytest.mark.parametrize(
    ("path", "prefix", "below"),
    [
        ("/llm/health", "/llm", "/health"),
        ("/llm", "/llm", ""),
        ("/llmx/health", "/llm", "/llmx/health"),
        ("/health", "/llm", "/health"),
        ("/health", "", "/health"),
    ],
)
def test_path_below_prefix_is_the_one_that_the_routes_match(path: str, prefix: str, below: str) -> None:
    found = {"type": "http", "path": path, "root_path": prefix}
    assert path_below_prefix(found) == get_route_path(found) == below


def test_health_checks_below_a_prefix_are_logged_as_details(caplog: pytest.LogCaptureFixture) -> None:
    with serving(fake_app(Scripted()), root_path="/llm") as url:
        httpx.get(f"{url}/health/live", **LOCAL)
    assert access_lines(caplog) == []


@pytest.mark.parametrize("path", sorted(OPEN | {"/docs-assets/swagger-ui.css", "/ui/main.js"}))
def test_open_routes_answer_without_the_key(locked: httpx.Client, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}])
def test_key_is_accepted_in_either_header(locked: httpx.Client, headers: dict[str, str]) -> None:
    assert locked.get("/api/v1/chat/models", headers=headers).status_code == 200
    assert locked.get("/api/v1/chat/models", headers={"X-API-Key": KEY}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": KEY},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"x_api_key": "wrong"},
        {"x_api_key": "\xe9"},
        {"x_api_key": KEY, "authorization": "Bearer wrong"},
    ],
)
def test_key_check_refuses_anything_but_the_key(headers: dict[str, str]) -> None:
    with pytest.raises(NotAuthenticated):
        KeyCheck(keys_of(api_key=KEY))(scope(**headers))


def test_refusal_says_whether_the_key_is_missing_or_wrong() -> None:
    check = KeyCheck(keys_of(api_key=KEY))
    with pytest.raises(NotAuthenticated, match="requires an API key"):
        check(scope())
    with pytest.raises(NotAuthenticated, match="key is wrong"):
        check(scope(x_api_key="another"))


def test_key_may_hold_any_character() -> None:
    given = "schlüssel".encode().decode("latin-1")  # as a server decodes the bytes
    assert KeyCheck(keys_of(api_key="schlüssel"))(scope(x_api_key=given)) == DEFAULT_OWNER


def test_with_a_key_any_host_is_accepted(locked: httpx.Client) -> None:
    headers = {"Host": "models.example", "X-API-Key": KEY}
    assert locked.get("/api/v1/chat/models", headers=headers).status_code == 200


def test_refusals_carry_cross_origin_headers_too(locked: httpx.Client) -> None:
    reply = locked.get("/api/v1/chat/models", headers={"Origin": "https://page.example"})
    assert reply.status_code == 401
    assert reply.headers["access-control-allow-origin"] == "https://page.example"


def test_no_cross_origin_headers_without_the_setting(client: httpx.Client) -> None:
    reply = client.get("/health", headers={"Origin": str(client.base_url).rstrip("/")})
    assert "access-control-allow-origin" not in reply.headers


# Ids and log lines


def access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "app.access"]


def test_valid_request_id_is_kept_and_others_are_replaced(client: httpx.Client) -> None:
    ids = ["from-my-proxy_1.2", "with space", "x" * 65, ""]
    answered = [client.get("/", headers={"x-request-id": given}).headers["x-request-id"] for given in ids]
    assert answered[0] == ids[0]
    assert len(set(answered)) == 4 and not set(answered[1:]) & set(ids)


def test_access_line_names_the_template_and_not_the_id(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.get("/api/v1/chat/conversation/conv_secret")
    client.get("/")  # its line follows that of the first request
    assert access_lines(caplog)[0].startswith("GET /api/v1/chat/conversation/{conversation_id} 200 ")
    assert "conv_secret" not in caplog.text


def test_access_line_of_head_names_the_template(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.head("/api/v1/chat/conversation/conv_secret")
    client.get("/")
    assert access_lines(caplog)[0].startswith("HEAD /api/v1/chat/conversation/{conversation_id} 200 ")


def test_path_cannot_forge_a_line(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/no%0a2026-01-01 INFO forged")
    client.get("/")
    assert "/no\\u000a2026-01-01 INFO forged 404" in access_lines(caplog)[0]


def test_key_is_never_logged(locked: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    locked.get("/api/v1/chat/models", headers={"X-API-Key": KEY})
    locked.get("/api/v1/chat/models", headers={"X-API-Key": "wrong key"})
    assert KEY not in caplog.text and "wrong key" not in caplog.text
