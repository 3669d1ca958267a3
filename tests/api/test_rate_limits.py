"""What a caller may use in a minute, over HTTP: refusals, and the headers of replies."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.core.config import Settings
from app.main import create_app
from app.models.chat.completion import TextGenerator
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from app.services import Services
from tests.api.fakes import Scripted, fake_app, scripted_services, serving
from tests.api.owned import owned_server
from tests.api.raw_http import exchange
from tests.http_options import LOCAL
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels

KEYS = "alice:key-a,bob:key-b"
ALICE, BOB = {"X-API-Key": "key-a"}, {"X-API-Key": "key-b"}
OPEN = ("/", "/docs", "/openapi.json", "/health", "/health/live", "/api/v1/health/ready")
TOKENS = 7  # of one reply of the stand-in, with its prompt


def limits_of(reply: httpx.Response) -> dict[str, str]:
    prefix = "x-ratelimit-"
    return {
        name.removeprefix(prefix): value for name, value in reply.headers.items() if name.startswith(prefix)
    }


def generating_app(**settings: Any) -> FastAPI:  # Any: as Settings types them
    """An application that answers requests without a conversation by real services and a stand-in backend."""

    def build(settings: Settings) -> Services:
        services = scripted_services(Scripted(), settings)
        generator = ChatGenerator(StandInModels(StandInBackend(reply=WHOLE)), services.limits)
        choices = ChoiceGenerator(settings, generator)
        return replace(services, generator=TextGenerator(choices), choices=choices)

    return create_app(Settings(_env_file=None, api_keys=KEYS, **settings), build)


def test_without_limits_there_are_no_headers(client: httpx.Client) -> None:
    assert limits_of(client.get("/api/v1/chat/models")) == {}


def test_requests_beyond_the_limit_are_refused_for_one_key_only() -> None:
    app = fake_app(Scripted(), api_keys=KEYS, key_requests_per_minute=2)
    with serving(app) as url, httpx.Client(base_url=url, **LOCAL) as client:
        replies = [client.get("/api/v1/chat/models", headers=ALICE) for _ in range(3)]
        other = client.get("/api/v1/chat/models", headers=BOB)
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert [limits_of(reply)["remaining-requests"] for reply in replies] == ["1", "0", "0"]
    assert [limits_of(reply)["limit-requests"] for reply in replies] == ["2"] * 3
    refused = replies[-1]
    error = refused.json()["error"]
    assert (error["code"], str(error["retry_after"])) == (
        "rate_limit_exceeded",
        refused.headers["retry-after"],
    )
    assert 1 <= error["retry_after"] <= int(limits_of(refused)["reset-requests"].removesuffix("s")) <= 60
    assert (other.status_code, limits_of(other)["remaining-requests"]) == (200, "1")


def test_the_question_which_turns_run_does_not_count() -> None:
    app = fake_app(Scripted(), api_keys=KEYS, key_requests_per_minute=1)
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=ALICE, **LOCAL) as client,
    ):
        polls = [client.get("/api/v1/chat/turns").status_code for _ in range(3)]
        assert polls == [200, 200, 200]
        assert client.get("/api/v1/chat/models").status_code == 200
        assert client.get("/api/v1/chat/models").status_code == 429


@pytest.mark.parametrize(
    ("method", "body", "status"),
    [("POST", b"", 405), ("DELETE", b"", 405), ("GET", b"{}", 415), ("GET", iter([b"{}"]), 415)],
    ids=["post", "delete", "length", "chunks"],
)
def test_other_methods_and_bodies_at_the_path_of_running_turns_count(
    method: str, body: bytes | Iterator[bytes], status: int
) -> None:
    app = fake_app(Scripted(), api_keys=KEYS, key_requests_per_minute=1)
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=ALICE, **LOCAL) as client,
    ):
        first = client.request(method, "/api/v1/chat/turns", content=body)
        assert (first.status_code, limits_of(first)["remaining-requests"]) == (status, "0")
        assert client.request("POST", "/api/v1/chat/turns").status_code == 429
        assert client.head("/api/v1/chat/turns").status_code == 200


def test_open_routes_and_refused_keys_do_not_count() -> None:
    app = fake_app(Scripted(), api_keys=KEYS, key_requests_per_minute=1)
    with serving(app) as url, httpx.Client(base_url=url, **LOCAL) as client:
        for path in OPEN:
            for headers in ({}, ALICE):
                reply = client.get(path, headers=headers)
                assert (reply.status_code, limits_of(reply)) == (200, {}), path
        assert limits_of(client.get("/api/v1/chat/models", headers={"X-API-Key": "wrong"})) == {}
        assert client.get("/api/v1/chat/models", headers=ALICE).status_code == 200


def test_without_keys_all_callers_share_the_limits_and_open_routes_have_none() -> None:
    app = fake_app(Scripted(), key_requests_per_minute=1)
    with serving(app) as url, httpx.Client(base_url=url, **LOCAL) as client:
        assert [client.get("/health").status_code for _ in range(3)] == [200] * 3
        assert [client.get("/api/v1/chat/models").status_code for _ in range(2)] == [200, 429]


def test_request_beyond_the_limit_is_refused_before_its_body_is_read() -> None:
    head = b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nX-API-Key: key-a\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 1000\r\nConnection: close\r\n\r\n"
    app = fake_app(Scripted(), api_keys=KEYS, key_requests_per_minute=1)
    with serving(app) as url:
        httpx.get(f"{url}/api/v1/chat/models", headers=ALICE, **LOCAL)
        assert exchange(url, head).startswith(b"HTTP/1.1 429 ")


def test_tokens_of_replies_streams_and_sequences_count() -> None:
    app = generating_app(key_tokens_per_minute=5 * TOKENS)
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=ALICE, **LOCAL) as client,
    ):
        first = client.post("/api/v1/generate", json={"prompt": "hi"})
        with client.stream("POST", "/api/v1/generate", json={"prompt": "hi", "stream": True}) as stream:
            stream.read()
        third = client.post("/api/v1/generate", json={"prompt": "hi", "num_return_sequences": 2})
        fourth = client.post("/api/v1/generate", json={"prompt": "hi"})
        refused = client.post("/api/v1/generate", json={"prompt": "hi", "stream": True})
        listed = client.get("/api/v1/chat/models")
        other = client.post("/api/v1/generate", json={"prompt": "hi"}, headers=BOB)
    usage = first.json()["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == TOKENS
    remaining = [int(limits_of(reply)["remaining-tokens"]) for reply in (first, third, fourth, refused)]
    assert remaining == [4 * TOKENS, TOKENS, 0, 0]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (listed.status_code, limits_of(listed)["remaining-tokens"]) == (200, "0")
    assert limits_of(other) | {"reset-tokens": ""} == {
        "limit-tokens": str(5 * TOKENS),
        "remaining-tokens": str(4 * TOKENS),
        "reset-tokens": "",
    }


def test_all_apis_share_the_limits_of_a_key_and_refuse_in_their_own_words() -> None:
    app = generating_app(key_tokens_per_minute=3 * TOKENS, key_requests_per_minute=7)
    messages = {"model": "stand-in", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    asked: list[tuple[str, dict[str, object]]] = [
        ("/api/v1/generate", {"prompt": "hi"}),
        ("/v1/chat/completions", messages),
        ("/v1/messages", messages),
    ]
    with (
        serving(app) as url,
        httpx.Client(base_url=url, headers=ALICE, **LOCAL) as client,
    ):
        answered = [client.post(path, json=body) for path, body in asked]
        without_tokens = [client.post(path, json=body) for path, body in asked]
        client.get("/v1/models")
        without_requests = [client.post(path, json=body) for path, body in asked]
    assert [reply.status_code for reply in answered] == [200] * 3
    assert [limits_of(reply)["remaining-tokens"] for reply in answered] == ["14", "7", "0"]
    for refused in (without_tokens, without_requests):
        assert [reply.status_code for reply in refused] == [429] * 3
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        native, openai, anthropic = (reply.json()["error"] for reply in refused)
        assert native["code"] == openai["code"] == "rate_limit_exceeded"
        assert openai["type"] == anthropic["type"] == "rate_limit_error"


def test_turns_count_and_are_open_until_they_end_also_in_the_background() -> None:
    async def test() -> None:
        async with owned_server(key_max_open_requests=1, key_tokens_per_minute=2 * TOKENS) as server:
            alice, bob = server.clients["alice"], server.clients["bob"]
            server.backend.may_go_on.clear()
            body = {"message": "hi", "background": True}
            turn = asyncio.create_task(alice.post("/chat", json=body))
            await asyncio.wait_for(server.backend.is_waiting.wait(), 30)
            refused = await alice.post("/chat", json={"message": "hi"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            server.backend.may_go_on.set()
            assert (await bob.post("/chat", json={"message": "hi"})).status_code == 200
            assert limits_of(await turn)["remaining-tokens"] == str(TOKENS)
            assert (await alice.post("/chat", json={"message": "hi"})).status_code == 200
            refused = await alice.post("/chat", json={"message": "hi", "background": True, "stream": True})
            assert (refused.status_code, limits_of(refused)["remaining-tokens"]) == (429, "0")
            assert (await alice.get("/chat/conversations")).json()["total"] == 2

    asyncio.run(test())
