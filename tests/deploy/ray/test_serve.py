"""One replica of Ray Serve: what its clients see is what one server sends. Needs Ray."""

import importlib.util
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.deploy.ray.ray_cluster import running_ray_cluster
from tests.server import events
from tests.waiting import LIMIT_S, wait_for

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed (pip install -r deploy/ray/requirements.txt)",
)
ENDLESS = {"message": "Tell me a story.", "stream": True, "max_tokens": 3000, "ignore_eos": True}


@pytest.fixture(scope="module")
def http(shared_fork_server: Path) -> Iterator[httpx.Client]:
    settings = {"LLM_MODEL_NAME": "builtin", "LLM_THREADS": "1", "LLM_FORK_SERVER": str(shared_fork_server)}
    with (
        running_ray_cluster(settings, 1) as cluster,
        httpx.Client(base_url=cluster.url, timeout=LIMIT_S, trust_env=False) as client,
    ):
        yield client


def test_stream_arrives_token_by_token_and_ends_with_its_client(http: httpx.Client) -> None:
    with http.stream("POST", "/api/v1/chat", json=ENDLESS) as reply:
        stream = events(reply)
        assert [next(stream)[0] for _ in range(3)] == ["start", "delta", "delta"]
        assert http.get("/health").json()["active_requests"] == 1
    wait_for(lambda: http.get("/health").json()["active_requests"] == 0, "the answer to be cancelled")


def test_id_errors_and_pages_pass_the_proxy(http: httpx.Client) -> None:
    reply = http.post("/api/v1/chat", json={"message": "Hello!"}, headers={"x-request-id": "mine"})
    assert (reply.status_code, reply.headers.get_list("x-request-id")) == (200, ["mine"])
    assert http.post("/v1/chat/completions", json={}).json()["error"]["type"] == "invalid_request_error"
    too_large = http.post("/api/v1/chat", json={"message": "x" * 1_000_000})
    assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "body_too_large")
    assert http.get("/ui").status_code == 200


def test_conversation_has_the_id_of_its_session(http: httpx.Client) -> None:
    session = str(uuid.uuid4())
    first = http.post("/api/v1/chat", json={"message": "Hello!"}, headers={"x-session-id": session}).json()
    assert first["conversation_id"] == f"conv_{session.replace('-', '')}"
