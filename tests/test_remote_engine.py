"""A server whose model another server runs: conversations, every API, and what happens when that one dies."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import pytest

from tests.engine.remote.standin import HELLO, KEY, StandInUpstream, running_upstream
from tests.forked_server import forked_server
from tests.server import NO_WORKERS, RunningServer, events, free_port
from tests.waiting import wait_for


def settings_for(folder: Path, base_url: str, **settings: str) -> dict[str, str]:
    """The settings of a server whose only model of use is the remote engine at this URL."""
    return {"LLM_MODEL_NAME": "far", "LLM_MODELS_FILE": models_file(folder, base_url)} | NO_WORKERS | settings


def models_file(folder: Path, base_url: str) -> str:
    path = folder / "models.toml"
    path.write_text(
        f'[models.far]\nengine = "openai"\nbase_url = "{base_url}"\n'
        'model = "builtin"\napi_key_env = "FAR_KEY"\n'
    )
    return str(path)


@pytest.fixture(scope="module")
def near(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server before one that runs the built-in model."""
    folder = tmp_path_factory.mktemp("near")
    settings = settings_for(folder, f"{server.url}/v1", FAR_KEY="any")
    with forked_server(folder, **settings) as near:
        near.wait_until_ready()
        yield near


def test_conversation_goes_on_over_the_remote_engine(near: RunningServer) -> None:
    first = near.chat("Hi, my name is Zofia.")
    second = near.chat("What is my name?", conversation_id=first["conversation_id"])
    assert "Zofia" in second["response"]
    assert second["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert second["usage"]["cached_tokens"] > 0
    assert (second["model_name"], second["model_id"]) == ("far", "builtin")


def test_stream_equals_the_whole_reply(near: RunningServer) -> None:
    body = {"message": "What is the capital of France?", "temperature": 0, "stream": True}
    with near.http.stream("POST", "/api/v1/chat", json=body) as response:
        seen = list(events(response))
    text = "".join(data["text"] for name, data in seen if name == "delta")
    assert text == dict(seen)["done"]["response"] == near.chat("What is the capital of France?")["response"]
    assert "Paris" in text


def test_other_apis_reach_it(near: RunningServer) -> None:
    question = "What is the capital of France?"
    with openai.OpenAI(base_url=f"{near.url}/v1", api_key="none") as client:
        reply = client.chat.completions.create(
            model="far", messages=[{"role": "user", "content": question}], temperature=0, logprobs=True
        )
    assert "Paris" in (reply.choices[0].message.content or "")
    assert reply.choices[0].logprobs and reply.choices[0].logprobs.content
    with anthropic.Anthropic(base_url=near.url, api_key="none") as client_of_messages:
        message = client_of_messages.messages.create(
            model="far", max_tokens=50, messages=[{"role": "user", "content": question}]
        )
        count = client_of_messages.messages.count_tokens(
            model="far", messages=[{"role": "user", "content": question}]
        )
    read = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert read == count.input_tokens


def test_it_is_listed_as_remote_and_takes_no_memory(near: RunningServer) -> None:
    listed = {model["name"]: model for model in near.get("/api/v1/chat/models")["models"]}
    far = listed["far"]
    assert (far["status"], far["is_remote"], far["is_on_disk"], far["memory_bytes"]) == (
        "loaded",
        True,
        False,
        0,
    )
    assert not listed["builtin"]["is_remote"]
    info = near.get("/api/v1/model-info")
    assert info["architecture"] == "remote engine (LLM server)"
    assert info["parameters"] is None
    assert "127.0.0.1" not in httpx.Response(200, json=[info, far]).text


def test_what_it_cannot_do_is_a_400_that_names_it(near: RunningServer) -> None:
    body = {"message": "Hi", "thinking_budget": 5, "think": True}
    response = near.http.post("/api/v1/chat", json=body)
    assert response.status_code == 400
    assert "thinking_budget" in response.json()["error"]["message"]
    assert near.http.post("/api/v1/tokenize", json={"text": "Hi"}).status_code == 400


def test_dead_engine_is_one_clear_error_and_serves_again_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    upstream = StandInUpstream(owner="vllm", model="builtin", needs_key=True)
    settings = settings_for(tmp_path, f"http://127.0.0.1:{port}/v1", FAR_KEY=KEY)
    with running_upstream(upstream, port), forked_server(tmp_path, **settings) as server:
        server.wait_until_ready()
        conversation = server.chat("Hi")["conversation_id"]
    with forked_server(tmp_path, **settings) as server:
        refused = server.http.post("/api/v1/chat", json={"message": "Hi"})
        assert refused.status_code == 503
        assert "cannot be reached (connection refused)" in refused.json()["error"]["message"]
        assert server.http.get("/health/ready").status_code == 503
        health = server.http.get("/health").text
        assert "cannot be reached" in health
        for secret in (KEY, str(port)):
            assert secret not in refused.text + health
        with running_upstream(upstream, port):
            server.wait_until_ready()
            assert server.chat("Hi")["response"] == "Hello there"
        assert conversation  # of a server that kept it in memory


@dataclass(frozen=True)
class Far:
    """A server before a stand-in."""

    upstream: StandInUpstream
    server: RunningServer


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    folder, upstream = tmp_path_factory.mktemp("far"), StandInUpstream(owner="vllm", model="builtin")
    with (
        running_upstream(upstream),
        forked_server(folder, **settings_for(folder, upstream.url, FAR_KEY=KEY)) as server,
    ):
        server.wait_until_ready()
        yield Far(upstream, server)


def test_upstream_decides_what_the_request_leaves_out(far: Far) -> None:
    plain = far.server.post("/api/v1/chat", message="Hi")["parameters"]
    far.server.post("/api/v1/chat", message="Hi", top_p=0.8)
    assert far.server.get("/api/v1/model-info")["sampling"].keys() == {"max_tokens"}
    assert (plain["temperature"], plain["top_p"], plain["top_k"]) == (None, None, None)
    assert plain["max_tokens"] == 1024
    first, second = far.upstream.bodies[-2:]
    assert not {"temperature", "top_p", "top_k", "min_p", "repetition_penalty"} & first.keys()
    assert second["top_p"] == 0.8
    assert "temperature" not in second


MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/chat", {"message": "Hi"}),
        ("/v1/chat/completions", {"model": "far", "messages": MESSAGES}),
        ("/v1/messages", {"model": "far", "max_tokens": 50, "messages": MESSAGES}),
        ("/v1/responses", {"model": "far", "input": "Hi"}),
    ],
)
def test_client_that_leaves_ends_the_request_upstream(
    far: Far, path: str, body: dict[str, object], stream: bool
) -> None:
    far.upstream.is_endless = True
    far.upstream.has_left.clear()
    begun = len(far.upstream.bodies)
    connection = HTTPConnection(urlsplit(far.server.url).netloc)
    sent = json.dumps(body | {"stream": stream})
    connection.request("POST", path, sent, {"content-type": "application/json"})
    wait_for(lambda: len(far.upstream.bodies) > begun, "the request upstream")
    connection.close()
    wait_for(far.upstream.has_left.is_set, "the upstream to notice")
    far.upstream.is_endless = False


def test_engine_that_dies_in_use_is_noticed_without_a_request(tmp_path: Path) -> None:
    port = free_port()
    upstream = StandInUpstream(model="builtin", chunks=list(HELLO))
    settings = settings_for(tmp_path, f"http://127.0.0.1:{port}/v1", FAR_KEY=KEY)
    with running_upstream(upstream, port):
        server_context = forked_server(tmp_path, **settings)
        server = server_context.__enter__()
        server.wait_until_ready()
        first = server.chat("Hi")
    try:
        refused = server.http.post(
            "/api/v1/chat", json={"message": "Hi", "conversation_id": first["conversation_id"]}
        )
        assert refused.status_code == 503
        wait_for(lambda: server.http.get("/health/ready").status_code == 503, "the failure to be noticed")
        with running_upstream(upstream, port):
            server.wait_until_ready()
            assert server.chat("Hi", conversation_id=first["conversation_id"])["response"] == "Hello there"
    finally:
        server_context.__exit__(None, None, None)


def test_key_that_is_not_set_is_named(tmp_path: Path) -> None:
    with forked_server(tmp_path, **settings_for(tmp_path, "http://127.0.0.1:1/v1")) as server:
        error = server.http.post("/api/v1/chat", json={"message": "Hi"}).json()["error"]
    assert "FAR_KEY" in error["message"]


def test_end_of_the_engine_amid_a_stream_is_one_error(tmp_path: Path) -> None:
    port = free_port()
    upstream = StandInUpstream(model="builtin", is_endless=True)
    settings = settings_for(tmp_path, f"http://127.0.0.1:{port}/v1", FAR_KEY=KEY)
    body = {"message": "Hi", "stream": True}
    with ExitStack() as until_first_delta, forked_server(tmp_path, **settings) as server:
        until_first_delta.enter_context(running_upstream(upstream, port))
        server.wait_until_ready()
        with server.http.stream("POST", "/api/v1/chat", json=body) as response:
            names = []
            for name, data in events(response):
                if name == "delta" and name not in names:
                    until_first_delta.close()
                names.append(name)
                last = data
    assert names[-1] == "error"
    assert names.count("error") == 1
    assert "broke off" in last["error"]["message"]
