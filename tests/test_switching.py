"""A switch while eight streams run on the old model of a real server: nobody notices."""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from tests.server import TIMEOUT_S, RunningServer, events

STREAMS = 8
QUESTION = "A function that calculates the factorial of a number"
LONGEST_S = 0.5  # beyond any step, also where the tests share their cores; a stop for the load takes seconds


@dataclass
class Listener:
    """Reads one stream after the other, and when each piece came."""

    url: str
    replies: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)  # when one ended, and how long it was

    def listen(self, is_over: threading.Event) -> None:
        body = {"message": QUESTION, "model_name": "builtin", "temperature": 0, "stream": True}
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=False) as http:
            while not is_over.is_set():
                with http.stream("POST", "/api/v1/chat", json=body) as stream:
                    self.replies.append(self._read(stream))

    def _read(self, stream: httpx.Response) -> dict[str, Any]:
        told = [(name, data, time.monotonic()) for name, data in events(stream)]
        came = [when for name, _, when in told if name == "delta"]
        self.gaps += [(after, after - before) for before, after in pairwise(came)]
        name, data, _ = told[-1]
        assert name == "done"
        return dict(data)


def switch_to(server: RunningServer, name: str) -> None:
    """Takes its time: whoever is answered comes first."""
    url, body = "/api/v1/chat/switch-model", {"model_name": name}
    server.http.post(url, json=body, timeout=3 * TIMEOUT_S).raise_for_status()


def test_switch_under_load_breaks_no_stream_and_makes_none_wait(server: RunningServer) -> None:
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
    gaps = [gap for listener in listeners for when, gap in listener.gaps if began < when < ended]
    assert len(gaps) > STREAMS * 10
    assert max(gaps) < max(LONGEST_S, 20 * statistics.median(gaps))
    assert server.get("/api/v1/health")["current_model"] == "gpt2"
    switch_to(server, "builtin")
