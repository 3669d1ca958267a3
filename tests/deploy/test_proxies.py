"""The examples for nginx and Caddy: streams arrive token by token, with and without a prefix, with a key."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.api.fakes import Scripted, fake_app, serving
from tests.deploy.proxies import CADDY, NGINX, running_caddy, running_nginx
from tests.server import events
from tests.waiting import LIMIT_S

KEY = "the-key"
NEEDS_NGINX = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt-get install nginx)")
NEEDS_CADDY = pytest.mark.skipif(CADDY is None, reason="Caddy is not installed (apt-get install caddy)")
EXAMPLES = [
    pytest.param("llm.conf", "", marks=NEEDS_NGINX),
    pytest.param("llm_prefix.conf", "/llm", marks=NEEDS_NGINX),
    pytest.param("Caddyfile", "", marks=NEEDS_CADDY),
    pytest.param("Caddyfile.prefix", "/llm", marks=NEEDS_CADDY),
]


@dataclass
class Behind:
    """A scripted server behind a proxy, and a client of the proxy."""

    scripted: Scripted
    http: httpx.Client
    url: str
    prefix: str


@contextmanager
def behind(example: str, prefix: str, folder: Path) -> Iterator[Behind]:
    scripted, authority = Scripted(), trustme.CA()
    certificate = folder / "certificate.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    running = running_caddy if example.startswith("Caddy") else running_nginx
    app = fake_app(scripted, api_key=KEY, metrics_addresses="127.0.0.1", root_path=prefix)
    with (
        serving(app, root_path=prefix) as server,
        running(example, folder, server.removeprefix("http://"), certificate) as url,
    ):
        authority.cert_pem.write_to_path(str(folder / "authority.pem"))
        context = ssl.create_default_context(cafile=str(folder / "authority.pem"))
        with httpx.Client(
            base_url=f"{url}{prefix}", verify=context, timeout=LIMIT_S, trust_env=False
        ) as client:
            client.headers["X-API-Key"] = KEY
            yield Behind(scripted, client, url, prefix)


@pytest.mark.parametrize(("example", "prefix"), EXAMPLES)
def test_stream_arrives_token_by_token_and_ends_with_its_client(
    example: str, prefix: str, tmp_path: Path
) -> None:
    with behind(example, prefix, tmp_path) as proxy:
        body = {"message": "hang", "stream": True}
        with proxy.http.stream("POST", "/api/v1/chat", json=body) as reply:
            stream = events(reply)
            assert (next(stream)[0], next(stream)) == ("start", ("delta", {"text": "Hello"}))
            assert proxy.scripted.waiting.wait(LIMIT_S), "the server goes on only when its client has left"
        assert proxy.scripted.cancelled.wait(LIMIT_S)


@pytest.mark.parametrize(("example", "prefix"), EXAMPLES)
def test_key_id_and_paths_pass_the_proxy(example: str, prefix: str, tmp_path: Path) -> None:
    with behind(example, prefix, tmp_path) as proxy:
        whole = proxy.http.post("/api/v1/chat", json={"message": "hello"}, headers={"x-request-id": "mine"})
        assert (whole.status_code, whole.headers["x-request-id"]) == (200, "mine")
        assert whole.json()["response"] == "Hello\nthere"
        assert len(proxy.http.get("/health/live").headers["x-request-id"]) >= 16
        assert proxy.http.get("/api/v1/chat/models", headers={"X-API-Key": "wrong"}).status_code == 401
        assert proxy.http.get("/docs").status_code == 200
        assert proxy.http.get("/").json()["docs"] == f"{proxy.url}{prefix}/docs"
        assert proxy.http.get("/metrics").status_code == 404, "its address would be that of the proxy"


@pytest.mark.parametrize(("example", "prefix"), EXAMPLES[:2])
def test_nginx_passes_on_no_body_that_is_too_large(example: str, prefix: str, tmp_path: Path) -> None:
    with behind(example, prefix, tmp_path) as proxy:
        too_large = proxy.http.post("/api/v1/chat", json={"message": "x" * 1_200_000})
        assert too_large.status_code == 413
        assert proxy.scripted.calls == []
