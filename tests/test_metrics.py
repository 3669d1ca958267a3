"""After 200 requests of all kinds on all APIs, the server has counted what the client has."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import httpx
import pytest

from tests.http_options import LOCAL
from tests.models.metrics.exposition import Figures
from tests.server import RunningServer, events, running_server
from tests.waiting import wait_for

ROUNDS = 20  # of ten requests each
CUT_OFF = "gpt2"  # the model of the requests that are cut off, whose tokens the client does not know exactly


@dataclass
class Tally:
    """What the client counts."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)  # by surface and status
    ends: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    lock: Lock = field(default_factory=Lock)

    def count(self, surface: str, reply: httpx.Response) -> httpx.Response:
        with self.lock:
            self.requests[surface, str(reply.status_code)] += 1
        return reply

    def finish(self, reason: str, prompt: int, completion: int, cached: int) -> None:
        with self.lock:
            self.ends[{"end_turn": "stop", "max_tokens": "length"}.get(reason, reason)] += 1
            self.prompt_tokens += prompt
            self.completion_tokens += completion
            self.cached_tokens += cached

    def fail(self, reason: str, code: str | None = None) -> None:
        with self.lock:
            self.ends[reason] += 1
            if code is not None:
                self.failures[code] += 1


@pytest.fixture(scope="module")
def own_server(
    tmp_path_factory: pytest.TempPathFactory, cache_with_tiny_gpt2: Path
) -> Iterator[RunningServer]:
    """A server with a fork server of its own, so that its workers can be found."""
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_MODEL_CACHE_DIR": str(cache_with_tiny_gpt2),
        "LLM_API_KEY": "the-key",
        "LLM_METRICS_ADDRESSES": "127.0.0.1",
    }
    with running_server(tmp_path_factory.mktemp("metrics"), **settings) as server:
        server.http.headers["X-API-Key"] = "the-key"
        server.wait_until_ready()
        server.post("/api/v1/load-model", model_name=CUT_OFF)
        yield server


def figures_of(server: RunningServer) -> Figures:
    with httpx.Client(**LOCAL) as stranger:  # without a key
        return Figures(stranger.get(f"{server.url}/metrics").raise_for_status().text)


def native_whole(server: RunningServer, tally: Tally, number: int) -> None:
    body = {"message": f"Hello number {number}", "max_tokens": 4 + number % 5}
    reply = tally.count("native", server.http.post("/api/v1/chat", json=body)).json()
    usage = reply["usage"]
    tally.finish(
        reply["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"], usage["cached_tokens"]
    )


def native_stream(server: RunningServer, tally: Tally, number: int) -> None:
    body = {"prompt": f"One, two, {number}", "max_tokens": 6, "num_return_sequences": 1, "stream": True}
    with server.http.stream("POST", "/api/v1/generate", json=body) as reply:
        ((_, done),) = [event for event in events(tally.count("native", reply)) if event[0] == "done"]
    usage = done["usage"]
    tally.finish(
        done["finish_reasons"][0], usage["prompt_tokens"], usage["completion_tokens"], usage["cached_tokens"]
    )


def openai(server: RunningServer, tally: Tally, number: int) -> None:
    body = {"model": "builtin", "messages": [{"role": "user", "content": f"Hi {number}"}], "max_tokens": 5}
    reply = tally.count("openai", server.http.post("/v1/chat/completions", json=body)).json()
    usage = reply["usage"]
    tally.finish(
        reply["choices"][0]["finish_reason"],
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage["prompt_tokens_details"]["cached_tokens"],
    )


def anthropic(server: RunningServer, tally: Tally, number: int) -> None:
    body = {"model": "builtin", "messages": [{"role": "user", "content": f"Hey {number}"}], "max_tokens": 5}
    reply = tally.count("anthropic", server.http.post("/v1/messages", json=body)).json()
    usage = reply["usage"]
    cached = usage["cache_read_input_tokens"] or 0
    prompt = usage["input_tokens"] + cached
    tally.finish(reply["stop_reason"], prompt, usage["output_tokens"], cached)


def cut_off(server: RunningServer, tally: Tally, number: int) -> None:
    """Leaves a stream after its first events. The native API has sent its status by then."""
    body: dict[str, Any]
    if number % 2:
        path, surface = "/v1/completions", "openai"
        body = {"model": CUT_OFF, "prompt": "a b", "max_tokens": 900, "stream": True, "ignore_eos": True}
    else:
        path, surface = "/api/v1/generate", "native"
        body = {"prompt": "a b", "max_tokens": 900, "stream": True, "model_name": CUT_OFF, "ignore_eos": True}
    with server.http.stream("POST", path, json=body) as reply:
        lines = tally.count(surface, reply).iter_lines()
        while not next(lines).startswith("data: "):
            pass
    tally.fail("abort")


def too_long(server: RunningServer, tally: Tally, number: int) -> None:
    """The model's worker refuses the request."""
    body = {"prompt": "much too long " * 2000, "max_tokens": 4}
    reply = tally.count("native", server.http.post("/api/v1/generate", json=body))
    tally.fail("error", reply.json()["error"]["code"])


def refused(server: RunningServer, tally: Tally, number: int) -> None:
    """Never reaches a model."""
    tally.count("native", server.http.post("/api/v1/chat", json={"message": "x", "no_such_field": 1}))


def unknown_model(server: RunningServer, tally: Tally, number: int) -> None:
    body = {"model": "no-such-model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    tally.count("anthropic", server.http.post("/v1/messages", json=body))
    with tally.lock:
        tally.failures["model_not_found"] += 1


def without_key(server: RunningServer, tally: Tally, number: int) -> None:
    tally.count("openai", server.http.get("/v1/models", headers={"X-API-Key": "wrong"}))


def unknown_route(server: RunningServer, tally: Tally, number: int) -> None:
    tally.count("other", server.http.get(f"/no/such/route/{number}"))


KINDS = (
    native_whole,
    native_stream,
    openai,
    anthropic,
    cut_off,
    too_long,
    refused,
    unknown_model,
    without_key,
    unknown_route,
)


def test_counters_agree_with_the_client_after_200_requests(own_server: RunningServer) -> None:
    before, tally = figures_of(own_server), Tally()
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(kind, own_server, tally, number) for number in range(ROUNDS) for kind in KINDS]
        for call in calls:
            call.result()
    assert sum(tally.requests.values()) == ROUNDS * len(KINDS) == 200

    def grown(name: str, **labels: str) -> float:
        return figures_of(own_server).total(name, **labels) - before.total(name, **labels)

    def counted_ends() -> dict[str, float]:
        return {reason: grown("vllm:request_success_total", finished_reason=reason) for reason in tally.ends}

    def counted_requests() -> dict[tuple[str, str], float]:
        name = "llm_http_requests_total"
        return {key: grown(name, surface=key[0], status=key[1]) for key in tally.requests}

    # A request is counted when its reply has ended, which its client may notice earlier.
    wait_for(lambda: counted_ends() == dict(tally.ends), "the ends of all requests")
    wait_for(lambda: counted_requests() == tally.requests, "the ends of all replies")
    assert grown("vllm:request_success_total") == sum(tally.ends.values())
    assert {code: grown("llm_request_failures_total", code=code) for code in tally.failures} == tally.failures
    assert grown("llm_request_failures_total") == sum(tally.failures.values())
    finished = {"model_name": "builtin"}
    assert grown("vllm:prompt_tokens_total", **finished) == tally.prompt_tokens
    assert grown("vllm:prefix_cache_queries_total", **finished) == tally.prompt_tokens
    assert grown("vllm:generation_tokens_total", **finished) == tally.completion_tokens
    assert grown("vllm:prefix_cache_hits_total", **finished) == tally.cached_tokens
    assert grown("vllm:generation_tokens_total", model_name=CUT_OFF) >= tally.ends["abort"]
    wait_for(lambda: figures_of(own_server).total("vllm:num_requests_running") == 0)
    assert figures_of(own_server).total("vllm:num_requests_waiting") == 0
    assert figures_of(own_server).total("llm_worker_memory_bytes") > 0


def test_no_label_reveals_an_id_a_key_or_a_text(own_server: RunningServer) -> None:
    conversation = own_server.chat("Marmalade?", max_tokens=3)["conversation_id"]
    own_server.http.get(f"/api/v1/chat/conversation/{conversation}")
    labels = {
        value
        for family in figures_of(own_server).families
        for one in family.samples
        for value in one.labels.values()
    }
    assert not [
        value for value in labels if conversation in value or "the-key" in value or "Marmalade" in value
    ]


def test_a_stuck_worker_delays_no_scrape(own_server: RunningServer) -> None:
    workers = own_server.worker_pids()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert figures_of(own_server).total("llm_model_loaded") == len(workers) == 2
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
