"""Replicas of Ray Serve with one database: where requests go, and that nothing is lost while replicas change.

`pytest -m cluster tests/deploy/ray -s` runs these tests, and shows their figures.
"""

import importlib.util
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import httpx
import pytest

from tests.deploy.cluster.cluster import add_one, drain_one, kill_one
from tests.deploy.cluster.load import hold_conversations
from tests.deploy.ray.ray_cluster import RayCluster, running_ray_cluster
from tests.postgres import PostgresServer
from tests.server import events
from tests.waiting import LIMIT_S

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="Ray is not installed (pip install -r deploy/ray/requirements.txt)",
    ),
]
STREAMS = 12
ENDLESS = {"message": "Tell me a story.", "stream": True, "max_tokens": 3000, "ignore_eos": True}


@pytest.fixture(scope="module")
def settings(
    postgres: PostgresServer, shared_fork_server: Path, cache_with_tiny_gpt2: Path
) -> dict[str, str]:
    return {
        "LLM_MODEL_NAME": "builtin",
        "LLM_MODEL_CACHE_DIR": str(cache_with_tiny_gpt2),
        "LLM_THREADS": "1",
        "LLM_DATABASE_URL": postgres.url(postgres.new_database()),
        "LLM_FORK_SERVER": str(shared_fork_server),
    }


@pytest.fixture(scope="module")
def pair(settings: dict[str, str]) -> Iterator[RayCluster]:
    """Two replicas, of which a test drains one. Replies that go on have two seconds to end."""
    with running_ray_cluster(settings, 2, drain_s=2) as cluster:
        yield cluster


def test_requests_for_a_model_reach_the_replica_that_has_loaded_it(pair: RayCluster) -> None:
    with httpx.Client(base_url=pair.url, timeout=LIMIT_S, trust_env=False) as http:
        for number in range(6):
            prompt = {"model": "gpt2", "prompt": f"{number}", "max_tokens": 1}
            http.post("/v1/completions", json=prompt).raise_for_status()
        statuses = {}
        for session in range(24):
            headers = {"X-Session-Id": f"session {session}"}
            models = http.get("/api/v1/activity", headers=headers).json()["models"]
            boot_id = http.get("/health", headers=headers).json()["boot_id"]
            statuses[boot_id] = {model["name"]: model["status"] for model in models}
    assert sorted(each.get("gpt2", "") for each in statuses.values()) == ["", "loaded"]


def last_event(url: str, has_begun: Semaphore) -> tuple[str, Any]:
    """The name and the data of the last event of a stream that goes on for long."""
    with (
        httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as http,
        http.stream("POST", "/api/v1/chat", json=ENDLESS) as reply,
    ):
        stream = events(reply)
        begin = next(stream)
        has_begun.release()
        return deque(stream, maxlen=1).pop() if begin[0] == "start" else begin


def test_stream_that_outlasts_a_drain_ends_with_its_own_event(pair: RayCluster) -> None:
    has_begun = Semaphore(0)
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(last_event, pair.url, has_begun) for _ in range(STREAMS)]
        assert all(has_begun.acquire(timeout=LIMIT_S) for _ in streams)
        pair.drain()
        ends = [stream.result(LIMIT_S) for stream in streams]
    assert {name for name, _ in ends} == {"done"}
    assert {data["finish_reason"] for _, data in ends} == {"interrupted", "length"}


def test_nothing_is_lost_while_replicas_change(settings: dict[str, str]) -> None:
    with running_ray_cluster(settings, 3) as cluster:
        report = hold_conversations(cluster, 200, [kill_one, add_one, drain_one])
    sys.stdout.write(f"{report.summary()}\n")
    assert report.cached_share >= 0.95, report.summary()
