"""Structured output over HTTP: its forms, its refusals, and a server that stays responsive meanwhile."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.engine.grammars.nasty import MAY_WORK, MUST_FAIL
from tests.http_options import LOCAL
from tests.server import RunningServer

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "ok": {"type": "boolean"}},
    "required": ["city", "ok"],
    "additionalProperties": False,
}


def post(server: RunningServer, path: str, **body: Any) -> httpx.Response:  # Any: JSON
    return httpx.post(f"{server.url}/api/v1/{path}", json=body, **LOCAL)


def test_chat_replies_in_the_form_of_a_schema(server: RunningServer) -> None:
    response_format = {"type": "json_schema", "schema": SCHEMA}
    reply = post(server, "chat", message="Paris?", temperature=0, response_format=response_format).json()
    assert set(json.loads(reply["response"])) == {"city", "ok"}
    assert reply["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_generate_replies_with_a_choice(server: RunningServer, stream: bool) -> None:
    choice = {"type": "choice", "choices": ["left", "right"]}
    reply = post(server, "generate", prompt="Which way?", response_format=choice, stream=stream)
    assert reply.status_code == 200
    text = reply.text if stream else reply.json()["generated_text"][0]
    assert ("left" in text) != ("right" in text)


@pytest.mark.parametrize("name", MUST_FAIL)
def test_nasty_grammar_is_a_bad_request_before_the_first_token(server: RunningServer, name: str) -> None:
    reply = post(server, "generate", prompt="a", stream=True, response_format=form(MUST_FAIL[name]))
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "invalid_request"


def test_probe_and_other_requests_are_answered_beside_nasty_grammars(server: RunningServer) -> None:
    """All of them at once."""
    with ThreadPoolExecutor(len(MAY_WORK)) as executor:
        nasty = [
            executor.submit(
                post, server, "generate", prompt="a", max_tokens=20, response_format=form(MAY_WORK[name])
            )
            for name in MAY_WORK
        ]
        while not all(future.done() for future in nasty):
            assert httpx.get(f"{server.url}/health/live", **LOCAL).status_code == 200
            plain = post(server, "generate", prompt="The capital of France", max_tokens=4)
            assert plain.status_code == 200
        assert {future.result().status_code for future in nasty} <= {200, 400}


def form(source: str | dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    if isinstance(source, str):
        return {"type": "lark", "grammar": source}
    return {"type": "json_schema", "schema": source}
