"""The menu, with a small server that has an OpenAPI schema."""

import io
from collections.abc import Iterator

import httpx
import pytest

from app.apicheck.menu import LEAVING, Menu, operations_of
from app.cli.output.console import SafeConsole
from tests.api.fakes import Scripted, fake_app, serving
from tests.http_options import LOCAL


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(fake_app(Scripted())) as address:
        yield address


def shown(url: str, *answers: str, width: int = 200) -> str:
    """The output after these inputs."""
    output = io.StringIO()
    console = SafeConsole(file=output, width=width)
    with httpx.Client(base_url=url, **LOCAL) as http:
        schema = http.get("/openapi.json").json()
        routes = [f"{operation.method} {operation.path}" for operation in operations_of(schema)]
        numbered = [str(routes.index(answer) + 1) if answer in routes else answer for answer in answers]
        Menu(http, console, io.StringIO("\n".join([*numbered, "0", ""]))).run()
    return output.getvalue()


def test_menu_lists_every_route(url: str) -> None:
    text = shown(url)
    assert "POST /api/v1/chat " in text and "GET /api/v1/health/ready" in text and "Route:" in text


def test_menu_offers_the_example_of_a_body(url: str) -> None:
    text = shown(url, "POST /api/v1/chat", "")
    assert '({"message": "What is the capital of France?"})' in text
    assert "200 OK" in text and '"response": "Hello\\nthere"' in text


def test_menu_shows_a_stream(url: str) -> None:
    text = shown(url, "POST /api/v1/chat", '{"message": "hi", "stream": true}')
    assert 'delta: {"text":"Hello"}' in text and "done: " in text


def test_menu_offers_the_last_conversation(url: str) -> None:
    text = shown(url, "POST /api/v1/chat", "", "GET /api/v1/chat/conversation/{conversation_id}", "")
    assert "conversation_id (conv_1)" in text and '"messages": []' in text


def test_menu_offers_the_conversation_of_a_stream(url: str) -> None:
    body = '{"message": "hi", "stream": true}'
    text = shown(url, "POST /api/v1/chat", body, "GET /api/v1/chat/conversation/{conversation_id}", "")
    assert "conversation_id (conv_1)" in text


def test_menu_shows_complete_routes_at_80_columns(url: str) -> None:
    text = shown(url, width=80)
    assert "POST /api/v1/chat/conversation/{id}/regenerate" in text and "…" not in text


@pytest.mark.parametrize("word", [*LEAVING, "EXIT"])
def test_menu_is_left_with_any_usual_word(url: str, word: str) -> None:
    text = shown(url, word, "99")
    assert "Please select" not in text and text.endswith("Route: ")


def test_menu_shows_no_control_characters(url: str) -> None:
    text = shown(url, "POST /api/v1/chat", '{"message": "\x9b2J"}', "GET /api/v1/health")
    assert text.replace("\n", "").isprintable()


def test_menu_shows_errors(url: str) -> None:
    text = shown(url, "POST /api/v1/chat", "{", "99")
    assert "400 Bad Request" in text and '"invalid_request"' in text
    assert "Please select one of the available options" in text


def test_menu_survives_a_broken_connection(url: str) -> None:
    text = shown(url, "GET /api/v1/chat/conversation/{conversation_id}", "\x7f\x00")
    assert "The request failed" in text
