"""The page, with no network; and that what it offers to try works as it stands."""

import re

import httpx
import pytest

from tests.api.fakes import Scripted, fake_app

SCHEMA = fake_app(Scripted()).openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, operations in SCHEMA["paths"].items()
    for method, operation in operations.items()
]
BODIES = [
    pytest.param(path, example["value"], id=f"{path} {name}")
    for path, operations in SCHEMA["paths"].items()
    if "requestBody" in operations.get("post", {})
    for name, example in operations["post"]["requestBody"]["content"]["application/json"]["examples"].items()
]


def test_page_takes_everything_from_this_server(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "//" not in page.replace("<!--", "").replace("-->", "")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert client.get(link).status_code == 200


def test_no_other_page_asks_for_a_network(client: httpx.Client) -> None:
    assert client.get("/redoc").status_code == 404


def test_assets_cannot_be_left(client: httpx.Client) -> None:
    assert client.get("/docs-assets/%2e%2e/main.py").status_code == 404
    assert client.get("/docs-assets/").status_code == 404


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_route_is_described(path: str, method: str, operation: dict) -> None:
    assert operation["description"]
    assert "HTTPValidationError" not in str(operation)
    errors = {status: told for status, told in operation["responses"].items() if status != "200"}
    for told in errors.values():
        assert "example" in told["content"]["application/json"]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_every_example_works(client: httpx.Client, path: str, body: dict) -> None:
    reply = client.post(path.replace("{conversation_id}", "conv_1"), json=body)
    assert reply.status_code == 200


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/generate", "/api/v1/chat/switch-model"])
def test_streams_are_described(path: str) -> None:
    content = SCHEMA["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert "event: done" in content["text/event-stream"]["example"]


def test_key_field_is_there_only_when_a_key_is_asked_for() -> None:
    assert "securitySchemes" not in SCHEMA["components"]
    locked = fake_app(Scripted(), api_key="key").openapi()
    assert set(locked["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    assert "security" not in locked["paths"]["/api/v1/health"]["get"]
