"""Minutes of mixed requests: afterwards the server holds no more than it did at their beginning.

`SOAK_SECONDS` sets the length, `pytest -m slow tests/test_soak.py -s` shows the figures.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from tests.http_options import LOCAL
from tests.server import RunningServer, events, running_server
from tests.waiting import wait_for

SOAK_S = float(os.environ.get("SOAK_SECONDS", "600"))
CLIENTS = 3
WARM_UP_SHARE = 0.2  # of the time, after which the figures must stay level
MEASURES = 30
GROWTH = 1.05
SLACK_BYTES = 8_000_000  # of memory that 5 % of a small process is not
WORDS = ("red", "sea", "sun", "ten", "the", "you", "name three colours", "what is seven plus five?")


@dataclass(frozen=True)
class Sample:
    """What the server and its worker hold at one moment. The bytes are those that they share with nothing."""

    api_bytes: int
    worker_bytes: int
    descriptors: int
    threads: int
    files: int
    tasks: int

    @classmethod
    def of(cls, server: RunningServer, folder: Path) -> "Sample":
        process = psutil.Process(server.process.pid)
        return cls(
            api_bytes=own_bytes(process.pid),
            worker_bytes=max(map(own_bytes, server.worker_pids()), default=0),
            descriptors=process.num_fds(),
            threads=process.num_threads(),
            files=sum(1 for _ in (folder / "tmp").rglob("*")),
            tasks=tasks_of(server, folder / "tasks"),
        )


def own_bytes(pid: int) -> int:
    """The memory that the process shares with no other; 0 if it has ended, because its model was unloaded."""
    with suppress(psutil.NoSuchProcess):
        return int(psutil.Process(pid).memory_full_info().uss)
    return 0


def tasks_of(server: RunningServer, file: Path) -> int:
    file.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGUSR1)
    wait_for(file.exists, "the number of tasks")
    return int(file.read_text())


@dataclass
class Client:
    """Sends random requests, one after the other, and counts the answers by status."""

    url: str
    seed: int
    statuses: Counter[str] = field(default_factory=Counter)
    conversations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.http = httpx.Client(base_url=self.url, **LOCAL)

    def run(self, is_over: threading.Event) -> None:
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.chat, 8),
            (self.leave, 5),
            (self.complete, 4),
            (self.make_mistake, 3),
            (self.change_conversation, 3),
            (self.use_other_model, 1),
        ]
        requests, weights = zip(*kinds, strict=True)
        while not is_over.is_set():
            self.random.choices(requests, weights)[0]()
        self.http.close()

    def text(self, most: int = 120) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, most)))

    def post(self, path: str, **body: object) -> httpx.Response:
        response = self.http.post(f"/api/v1{path}", json=body)
        self.statuses[str(response.status_code)] += 1
        assert response.status_code < 500 or response.json()["error"]["code"] in TOLERATED, response.text
        return response

    def chat(self) -> None:
        """A message of any length, in a new conversation or a known one."""
        known = self.random.choice(self.conversations) if self.conversations else None
        body = {"message": self.text(), "max_tokens": self.random.randint(1, 60), "seed": self.seed}
        if known is not None and self.random.random() < 0.6:
            body["conversation_id"] = known
        response = self.post("/chat", **body)
        if response.is_success:
            self.conversations = [*self.conversations[-9:], response.json()["conversation_id"]]

    def leave(self) -> None:
        """A stream that is left after a few events."""
        body = {"message": self.text(), "max_tokens": 200, "stream": True}
        with self.http.stream("POST", "/api/v1/chat", json=body) as stream:
            left_after = self.random.randint(0, 15)
            for count, _ in enumerate(events(stream)):
                if count >= left_after:
                    break
        self.statuses["left"] += 1

    def complete(self) -> None:
        self.post(
            "/generate",
            prompt=self.text(300),
            max_tokens=self.random.randint(1, 30),
            num_return_sequences=self.random.randint(1, 4),
            temperature=self.random.choice([0, 0.5, 1.2]),
            stop=[self.random.choice(WORDS)],
        )

    def make_mistake(self) -> None:
        mistakes: list[tuple[str, dict[str, object]]] = [
            ("/chat", {"message": " "}),
            ("/chat", {"message": "hi", "unknown": 1}),
            ("/chat", {"message": self.text(9000)}),
            ("/chat", {"message": "hi", "model_name": "nobody"}),
            ("/chat", {"message": "hi", "conversation_id": "nothing"}),
            ("/generate", {"prompt": "x", "temperature": 9}),
        ]
        path, body = self.random.choice(mistakes)
        self.post(path, **body)

    def change_conversation(self) -> None:
        if not self.conversations:
            return
        path = f"/chat/conversation/{self.random.choice(self.conversations)}"
        action = self.random.choice(["regenerate", "continue", "undo", "delete"])
        if action == "delete":
            self.statuses[str(self.http.delete(f"/api/v1{path}").status_code)] += 1
        else:
            self.post(f"{path}/{action}")

    def use_other_model(self) -> None:
        """Switches there and back, or unloads the other model."""
        if self.random.random() < 0.5:
            self.post("/unload-model", model_name="gpt2")
        else:
            for name in ("gpt2", "builtin"):
                self.post("/chat/switch-model", model_name=name)


TOLERATED = ("model_busy", "shutting_down", "model_unavailable")


def soak(server: RunningServer, folder: Path) -> list[Sample]:
    """The samples taken while the clients send requests, and the last one at rest."""
    clients, is_over = [Client(server.url, seed) for seed in range(CLIENTS)], threading.Event()
    samples = []
    with ThreadPoolExecutor(CLIENTS) as threads:
        running = [threads.submit(client.run, is_over) for client in clients]
        try:
            for _ in range(MEASURES):
                is_over.wait(SOAK_S / MEASURES)
                samples.append(Sample.of(server, folder))
                sys.stdout.write(f"{time.strftime('%X')} {samples[-1]}\n")
                for client in running:
                    assert not client.done() or client.result() is None
        finally:
            is_over.set()
    total = sum((client.statuses for client in clients), Counter())
    sys.stdout.write(f"answers: {dict(total)}\n")
    assert total["200"] > 0 and total["422"] + total["400"] > 0 and total["left"] > 0
    return samples


@pytest.mark.slow
def test_minutes_of_mixed_requests_leave_the_server_level(tmp_path: Path, cache_with_tiny_gpt2: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_MODEL_CACHE_DIR": str(cache_with_tiny_gpt2),
        "LLM_MAX_CONVERSATIONS": "50",
        "LLM_KV_CACHE_GB": "0.1",
        "TMPDIR": str(temporary),
    }
    command = ["tests.soak_server", str(tmp_path / "tasks")]
    with running_server(tmp_path, command=command, **settings) as server:
        server.wait_until_ready()
        samples = soak(server, tmp_path)
        before = max_of(samples[: int(WARM_UP_SHARE * MEASURES)])
        after = max_of(samples[-MEASURES // 5 :])
        sys.stdout.write(f"before {before}\nafter  {after}\n")
        assert after.api_bytes < GROWTH * before.api_bytes + SLACK_BYTES
        assert after.worker_bytes < GROWTH * before.worker_bytes + SLACK_BYTES
        with suppress(httpx.HTTPStatusError):
            server.post("/api/v1/unload-model", model_name="gpt2")
        for name in ("descriptors", "threads", "files", "tasks"):
            most = getattr(before, name)
            wait_for(lambda: getattr(Sample.of(server, tmp_path), name) <= most, name)  # noqa: B023  # at once
        assert server.get("/api/v1/health")["active_requests"] == 0


def max_of(samples: list[Sample]) -> Sample:
    """The largest of each figure."""
    columns = {name: max(getattr(each, name) for each in samples) for name in Sample.__dataclass_fields__}
    return Sample(**columns)
