"""The page at /docs works without a network, and its examples can be sent unchanged."""

import re
from typing import Any

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


def test_page_loads_all_files_from_this_server(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "//" not in page.replace("<!--", "").replace("-->", "")
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert client.get(link).status_code == 200


def test_there_is_no_page_that_needs_a_network(client: httpx.Client) -> None:
    assert client.get("/redoc").status_code == 404


def test_no_file_outside_the_assets_is_served(client: httpx.Client) -> None:
    assert client.get("/docs-assets/%2e%2e/main.py").status_code == 404
    assert client.get("/docs-assets/").status_code == 404


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_route_is_described(path: str, method: str, operation: dict[str, Any]) -> None:
    assert operation["description"]
    assert "HTTPValidationError" not in str(operation)
    errors = {status: said for status, said in operation["responses"].items() if status[0] in "45"}
    for said in errors.values():
        assert "example" in said["content"]["application/json"]


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_every_example_works(client: httpx.Client, path: str, body: dict[str, object]) -> None:
    is_openai = path.startswith("/v1/conversations/")
    own_id = client.post("/v1/conversations").json()["id"] if is_openai else "conv_1"
    reply = client.post(path.replace("{conversation_id}", own_id), json=body)
    assert reply.status_code == 200
    reference = SCHEMA["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    named = reference["$ref"] if "$ref" in reference else reference["allOf"][0]["$ref"]
    described = SCHEMA["components"]["schemas"][named.rpartition("/")[2]]
    assert set(body) <= set(described["properties"])


def test_bounds_of_integers_are_integers() -> None:
    fields = SCHEMA["components"]["schemas"]["ChatRequest"]["properties"]
    bounds = fields["seed"]["anyOf"][0]
    assert (bounds["minimum"], bounds["maximum"]) == (0, 2**63 - 1)
    assert isinstance(bounds["maximum"], int) and isinstance(fields["top_k"]["anyOf"][0]["maximum"], int)


def test_example_of_a_load_does_not_say_that_it_switched() -> None:
    answer = SCHEMA["paths"]["/api/v1/load-model"]["post"]["responses"]["200"]["content"]
    assert "gpt2 is loaded" in answer["text/event-stream"]["example"]


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/generate", "/api/v1/chat/switch-model"])
def test_streams_are_described(path: str) -> None:
    content = SCHEMA["paths"][path]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    assert "event: done" in content["text/event-stream"]["example"]


def test_key_field_is_shown_only_if_a_key_is_required() -> None:
    assert "securitySchemes" not in SCHEMA["components"]
    locked = fake_app(Scripted(), api_key="key").openapi()
    assert set(locked["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    assert "security" not in locked["paths"]["/api/v1/health"]["get"]
    assert "401" in locked["paths"]["/api/v1/chat"]["post"]["responses"]
    assert "401" not in SCHEMA["paths"]["/api/v1/chat"]["post"]["responses"]
    assert "401" not in locked["paths"]["/api/v1/health"]["get"]["responses"]


def test_schema_says_with_which_seed_each_sequence_is_drawn() -> None:
    fields = SCHEMA["components"]["schemas"]["GenerateRequest"]["properties"]
    assert "`seed + i`" in fields["num_return_sequences"]["description"]
