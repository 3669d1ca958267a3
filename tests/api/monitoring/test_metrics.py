"""GET /metrics: who may read it, its formats, and the counts of requests over HTTP."""

from ipaddress import ip_network

import httpx
import pytest
from starlette.types import Scope

from app.api.middleware import KeyCheck
from app.api.paths import surface_of
from app.core.errors import NotAuthenticated
from tests.api.fakes import Scripted, fake_app, keys_of, serving
from tests.api.raw_http import leave
from tests.http_options import LOCAL
from tests.models.metrics.exposition import Figures
from tests.waiting import wait_for

HTTP = "llm_http_requests_total"


def test_requests_are_counted_by_surface_and_status(client: httpx.Client) -> None:
    def counted(surface: str, status: str) -> float:
        return Figures(client.get("/metrics").text).total(HTTP, surface=surface, status=status)

    kinds = (("native", "200"), ("native", "409"), ("other", "404"))
    expected = {kind: counted(*kind) + 1 for kind in kinds}
    client.post("/api/v1/chat", json={"message": "hello"})
    client.post("/api/v1/chat", json={"message": "busy"})
    client.get("/no/such/route")
    wait_for(lambda: {kind: counted(*kind) for kind in kinds} == expected, "the counts")


def test_client_that_leaves_is_counted_as_499(client: httpx.Client, url: str, scripted: Scripted) -> None:
    before = Figures(client.get("/metrics").text).total(HTTP, status="499")
    leave(url, "/api/v1/chat", {"message": "hang at once"}, when=scripted.waiting)
    wait_for(lambda: Figures(client.get("/metrics").text).total(HTTP, status="499") == before + 1)


@pytest.mark.parametrize("accept", ["*/*", "application/openmetrics-text; version=1.0.0"])
def test_names_keep_their_colons_in_the_only_format(client: httpx.Client, accept: str) -> None:
    report = client.get("/metrics", headers={"Accept": accept})
    assert report.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE vllm:request_success_total counter" in report.text
    assert "_created" not in report.text


@pytest.mark.parametrize(
    ("addresses", "status"),
    [("", 401), ("10.0.0.0/8", 401), ("127.0.0.1", 200), ("10.0.0.0/8, 127.0.0.0/8", 200)],
)
def test_key_is_needed_but_from_the_addresses_in_the_setting(addresses: str, status: int) -> None:
    app = fake_app(Scripted(), api_key="key", metrics_addresses=addresses)
    with serving(app) as url, httpx.Client(base_url=url, **LOCAL) as client:
        get = client.get
        assert get("/metrics").status_code == status
        assert get("/metrics", headers={"X-API-Key": "key"}).status_code == 200
        assert get("/api/v1/chat/models").status_code == 401


@pytest.mark.parametrize(
    ("client", "is_open"),
    [
        (("10.1.2.3", 1), True),
        (("::ffff:10.1.2.3", 1), True),
        (("fd00::1", 1), True),
        (("192.168.0.1", 1), False),
        (("fe80::1", 1), False),
        (("", 0), False),
        (None, False),
    ],
)
def test_address_of_the_client_opens_metrics_and_nothing_else(
    client: tuple[str, int] | None, is_open: bool
) -> None:
    check = KeyCheck(keys_of(api_key="key"), (ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
    scope: Scope = {"type": "http", "path": "/metrics", "headers": [], "client": client}
    if is_open:
        assert check(scope) is None
    else:
        with pytest.raises(NotAuthenticated):
            check(scope)
    with pytest.raises(NotAuthenticated):
        check({**scope, "path": "/metrics/x"})


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/api/v1/chat", "native"),
        ("/api/v1/health/ready", "health"),
        ("/health", "health"),
        ("/v1/chat/completions", "openai"),
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/messagesx", "openai"),
        ("/metrics", "metrics"),
        ("/docs-assets/x.js", "docs"),
        ("/", "other"),
        ("/conv_secret", "other"),
    ],
)
def test_surface_of_a_path(path: str, surface: str) -> None:
    assert surface_of(path) == surface
