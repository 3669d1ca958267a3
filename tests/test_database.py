"""Conversations in a database outlive a server that is killed, and are shared by several servers."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.forked_server import forked_server
from tests.http_options import LOCAL
from tests.models.storage.conftest import url_of
from tests.server import NO_WORKERS, ROOT, RunningServer, events, running_server
from tests.waiting import LIMIT_S, wait_for

WITHOUT_MODEL = ("tests.stored_server",)
ACKNOWLEDGED, BUSY, CUT = "acknowledged", "busy", "cut"
CALLERS = 10  # whose turns one kill cuts
MOST_EVENTS = 100  # that the callers read before a kill; a turn has five


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


@contextmanager
def stored_server(folder: Path, url: str) -> Iterator[RunningServer]:
    """A server on the database that answers without a model."""
    settings = {"LLM_DATABASE_URL": url, "LLM_MODEL_NAME": "none"} | NO_WORKERS
    with forked_server(folder, command=WITHOUT_MODEL, **settings) as server:
        server.wait_until_ready()
        yield server


class Killer:
    """Kills a server soon after its callers have read so many events together."""

    def __init__(self, server: RunningServer, draw: random.Random) -> None:
        self.events = draw.randint(1, MOST_EVENTS)
        self.timer = threading.Timer(draw.uniform(0.0, 0.02), server.process.kill)
        self.lock = threading.Lock()

    def count(self) -> None:
        with self.lock:
            self.events -= 1
            if self.events == 0:
                self.timer.start()


class Caller:
    """Sends messages to one conversation, and keeps what was acknowledged."""

    def __init__(self) -> None:
        self.conversation_id: str | None = None
        self.acknowledged: list[str] = []  # ids of replies whose `done` was read
        self.cut = 0  # turns that ended with the server
        self.http = httpx.Client(**LOCAL)  # no TLS here; making its context is slow

    def send(self, url: str, killer: Killer | None = None) -> str:
        """How the turn ended."""
        body: dict[str, Any] = {"message": "hi", "stream": True}  # Any: JSON
        if self.conversation_id is not None:
            body["conversation_id"] = self.conversation_id
        chat = self.http.stream("POST", f"{url}/api/v1/chat", json=body)
        with suppress(httpx.TransportError), chat as response:
            if response.status_code == 409:
                return BUSY
            assert response.status_code == 200
            for name, data in events(response):
                if killer is not None:
                    killer.count()
                if name == "done":
                    self.conversation_id = data["conversation_id"]
                    self.acknowledged.append(data["message_id"])
                    return ACKNOWLEDGED
        return CUT

    def send_until_cut(self, url: str, killer: Killer) -> None:
        while self.send(url, killer) == ACKNOWLEDGED:
            pass
        self.cut += 1


def check_after_restart(server: RunningServer, caller: Caller) -> None:
    """All that was acknowledged is there, no turn in half, and no lock."""
    if caller.conversation_id is None:
        return
    path = f"/api/v1/chat/conversation/{caller.conversation_id}"
    tree = server.get(f"{path}?tree=true")["messages"]
    ids = {message["id"] for message in tree}
    assert set(caller.acknowledged) <= ids
    assert [message["role"] for message in tree] == ["user", "assistant"] * (len(tree) // 2)
    assert [message["parent_id"] for message in tree] == [None, *(message["id"] for message in tree[:-1])]
    before = len(caller.acknowledged)
    assert caller.send(server.url) == ACKNOWLEDGED
    assert len(caller.acknowledged) == before + 1


def kill_during_turns(folder: Path, url: str, turns: int) -> None:
    """Kills the server at random moments, until it has cut so many turns."""
    draw, callers = random.Random(turns), [Caller() for _ in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        while sum(caller.cut for caller in callers) < turns:
            with stored_server(folder, url) as server:
                list(pool.map(lambda caller: check_after_restart(server, caller), callers))  # noqa: B023  # at once
                killer = Killer(server, draw)
                list(pool.map(lambda caller: caller.send_until_cut(server.url, killer), callers))  # noqa: B023
        with stored_server(folder, url) as server:
            list(pool.map(lambda caller: check_after_restart(server, caller), callers))
    assert sum(len(caller.acknowledged) for caller in callers) > CALLERS
    assert_sound(url)


def assert_sound(url: str) -> None:
    command = [sys.executable, "-m", "app.conversations", "--database", url, "check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_kill_at_random_moments_loses_nothing_acknowledged(tmp_path: Path, database_url: str) -> None:
    kill_during_turns(tmp_path, database_url, turns=40)


@pytest.mark.slow
def test_kill_at_many_random_moments_loses_nothing_acknowledged(tmp_path: Path, database_url: str) -> None:
    kill_during_turns(tmp_path, database_url, turns=500)


def test_two_servers_never_answer_in_a_conversation_at_once(tmp_path: Path, database_url: str) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    with stored_server(folders[0], database_url) as one, stored_server(folders[1], database_url) as two:
        caller = Caller()
        assert caller.send(one.url) == ACKNOWLEDGED
        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(caller.send, [one.url, two.url] * 40))
        assert set(outcomes) <= {ACKNOWLEDGED, BUSY}
        path = f"/api/v1/chat/conversation/{caller.conversation_id}"
        messages = one.get(path)["messages"]
        assert messages == two.get(path)["messages"]
        # A turn that had not seen the one before it would have made a second branch.
        replies = [each["id"] for each in messages if each["role"] == "assistant"]
        assert sorted(replies) == sorted(caller.acknowledged)
        assert two.http.delete(path).status_code == 200
        assert one.http.get(path).status_code == 404
    assert_sound(database_url)


def test_server_without_its_database_says_so_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with running_server(
        tmp_path,
        command=WITHOUT_MODEL,
        LLM_DATABASE_URL=f"sqlite:///{folder}/conversations.db",
        LLM_MODEL_NAME="none",
        **NO_WORKERS,
    ) as server:
        ready = server.http.get("/health/ready")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "store_unavailable")
        assert "folder" in server.get("/health")["storage_error"]
        for path, body in (("/api/v1/chat", {"message": "hi"}), ("/api/v1/chat/new", {})):
            refused = server.http.post(path, json=body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            assert "Retry-After" in refused.headers
        folder.mkdir()
        server.wait_until_ready()
        assert server.chat("hi")["message_count"] == 2


def test_a_conversation_outlives_kill_9_and_is_answered_anew(
    tmp_path: Path, shared_fork_server: Path
) -> None:
    settings = {
        "LLM_MODEL_NAME": "builtin",
        "LLM_DATABASE_URL": "sqlite:///conversations.db",
        "LLM_FORK_SERVER": str(shared_fork_server),
    }
    with running_server(tmp_path, **settings) as server:
        first = server.chat("Hi, my name is Marlowe.")
        os.kill(server.process.pid, signal.SIGKILL)
    with running_server(tmp_path, **settings) as server:
        path = f"/api/v1/chat/conversation/{first['conversation_id']}"
        wait_for(lambda: server.http.get("/health/ready").status_code == 200, "the server to be ready")
        reply = server.chat("What is my name?", conversation_id=first["conversation_id"])
        assert "Marlowe" in reply["response"]
        for seed in (1, 2):
            server.post(f"{path}/regenerate", temperature=1.5, seed=seed)
        *_, last = server.get(path)["messages"]
        assert len(last["siblings"]) == 3
        server.post(f"{path}/select", message_id=reply["message_id"])
        *_, last = server.get(path)["messages"]
        assert (last["id"], last["content"]) == (reply["message_id"], reply["response"])
