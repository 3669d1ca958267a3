"""The index, and the health checks."""

import httpx
import pytest

from tests.api.fakes import Scripted, State


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
@pytest.mark.parametrize("status", ["ok", "loading", "degraded", "unavailable"])
def test_health_reports_every_state(
    client: httpx.Client, scripted: Scripted, prefix: str, status: State
) -> None:
    scripted.state = status
    reply = client.get(f"{prefix}/health")
    assert (reply.status_code, reply.json()["status"]) == (200, status)
    assert client.get(f"{prefix}/health/live").json() == {"status": "ok"}


def test_ready_is_200_if_the_server_can_answer(client: httpx.Client) -> None:
    assert client.get("/api/v1/health/ready").json()["status"] == "ok"


def test_ready_is_503_with_a_retry_time_while_a_model_loads(client: httpx.Client, scripted: Scripted) -> None:
    scripted.state = "loading"
    reply = client.get("/api/v1/health/ready")
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "fake is loading.")
    assert reply.headers["retry-after"] == "2"


def test_ready_says_why_the_model_cannot_serve(client: httpx.Client, scripted: Scripted) -> None:
    scripted.state = "unavailable"
    reply = client.get("/api/v1/health/ready")
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "It broke.")
    assert "retry-after" not in reply.headers


def test_ready_is_503_with_a_retry_time_while_a_worker_is_started_again(
    client: httpx.Client, scripted: Scripted
) -> None:
    scripted.state = "degraded"
    reply = client.get("/api/v1/health/ready")
    assert (reply.status_code, reply.json()["error"]["message"]) == (503, "It broke.")
    assert reply.headers["retry-after"] == "2"


def test_index_lists_every_route_and_requests_to_try(client: httpx.Client) -> None:
    index = client.get("/").json()
    listed = {(route["method"], route["path"]) for route in index["routes"]}
    assert {("POST", "/api/v1/chat"), ("DELETE", "/api/v1/chat/conversation/{conversation_id}")} <= listed
    assert all(route["description"] for route in index["routes"])
    assert all(str(client.base_url).rstrip("/") in request for request in index["first_requests"])


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/openapi.json", "/health", "/health/live", "/api/v1/health/ready"]
)
def test_head_is_answered_as_get_without_the_body(client: httpx.Client, path: str) -> None:
    reply = client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert reply.headers["content-type"] == client.get(path).headers["content-type"]


def test_head_of_a_server_that_is_not_ready_is_503(client: httpx.Client, scripted: Scripted) -> None:
    scripted.state = "loading"
    reply = client.head("/health/ready")
    assert (reply.status_code, reply.headers["retry-after"], reply.content) == (503, "2", b"")
