"""Tests that switching the model does not disturb streams of the old model."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.http_options import LOCAL
from tests.server import RunningServer, events
from tests.waiting import LIMIT_S

STREAMS = 8
QUESTION = "A function that calculates the factorial of a number"
PIECES = 10  # that each stream gets at least while the other model is loaded


@dataclass
class Listener:
    """Reads one stream after another, and records when each piece arrived."""

    url: str
    replies: list[dict[str, Any]] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    def listen(self, is_over: threading.Event) -> None:
        body = {"message": QUESTION, "model_name": "builtin", "temperature": 0, "stream": True}
        with httpx.Client(base_url=self.url, **LOCAL) as http:
            while not is_over.is_set():
                with http.stream("POST", "/api/v1/chat", json=body) as stream:
                    self.replies.append(self._read(stream))

    def _read(self, stream: httpx.Response) -> dict[str, Any]:
        received = []
        for name, data in events(stream):
            received.append((name, data))
            if name == "delta":
                self.arrivals.append(time.monotonic())
        name, data = received[-1]
        assert name == "done"
        return dict(data)


def switch_to(server: RunningServer, name: str) -> None:
    """Switches the model, which may take long because running streams have priority."""
    url, body = "/api/v1/chat/switch-model", {"model_name": name}
    server.http.post(url, json=body, timeout=3 * LIMIT_S).raise_for_status()


def test_streams_continue_undisturbed_during_a_switch(server: RunningServer) -> None:
    switch_to(server, "builtin")
    server.post("/api/v1/unload-model", model_name="gpt2")
    alone = server.chat(QUESTION)["response"]
    listeners, is_over = [Listener(server.url) for _ in range(STREAMS)], threading.Event()
    with ThreadPoolExecutor(STREAMS) as threads:
        streams = [threads.submit(listener.listen, is_over) for listener in listeners]
        try:
            began = time.monotonic()
            switch_to(server, "gpt2")
            ended = time.monotonic()
        finally:
            is_over.set()
        for stream in streams:
            stream.result()
    replies = [reply for listener in listeners for reply in listener.replies]
    assert {(reply["response"], reply["model_id"]) for reply in replies} == {(alone, "builtin")}
    pieces = [sum(began < when < ended for when in listener.arrivals) for listener in listeners]
    assert min(pieces) >= PIECES
    assert server.get("/api/v1/health")["current_model"] == "gpt2"
    switch_to(server, "builtin")
