"""No request keeps the event loop for long, however odd it is: the server goes on answering others."""

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.core.config import Settings
from app.main import create_app
from app.services import Services
from tests.api.fakes import serving
from tests.http_options import LOCAL
from tests.stored_server import build
from tests.waiting import LIMIT_S, until

BODY_BYTES = 1_000_000
MOST_S = 0.5  # of computing in one turn of the loop; the faults that this test is for took many seconds
JSON = {"Content-Type": "application/json"}
CHAT, NEW, LOAD = "/api/v1/chat", "/api/v1/chat/new", "/api/v1/load-model"


class Heartbeat:
    """Beats on the server's event loop, and measures how long the loop's thread computes between two beats.

    Time in which it waits for other programs does not count. A loop that waits for a disk beats no more, so
    that no request is answered.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.beats = 0
        self.beating: asyncio.Task[None] | None = None

    def build(self, settings: Settings) -> Services:
        """The services of a server; the heart beats from their start on."""
        self.beating = asyncio.create_task(self.beat())
        return build(settings)

    async def beat(self) -> None:
        never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        while True:
            before = time.thread_time()
            await asyncio.wait((never,), timeout=0.001)
            self.longest_s = max(self.longest_s, time.thread_time() - before)
            self.beats += 1


def padded(start: bytes, piece: bytes, end: bytes) -> bytes:
    """A body of nearly the largest size, with as many pieces as fit."""
    return start + piece * ((BODY_BYTES - len(start) - len(end)) // len(piece)) + end


def many_keys(end: str) -> bytes:
    return ("{" + ",".join(f'"k{n}":{n}' for n in range(60_000)) + end + "}").encode()


ODD_BODIES = {
    "many keys": many_keys(""),
    "many keys and one twice": many_keys(',"k7":1'),
    "many objects with a key twice": padded(b'{"message":[', b'{"a":1,"a":1},', b"1]}"),
    "deep lists": padded(b'{"message":', b"[", b""),
    "deep objects": padded(b"", b'{"a":', b"1"),
    "a number of many digits": padded(b'{"top_k":', b"7", b"}"),
    "many surrogates": padded(b'{"message":"', rb"\ud83d", b'"}'),
    "many escapes": padded(b'{"message":"', rb"\u0041", b'"}'),
    "many mistakes": padded(b'{"message":"hi","stop":[', b"1,", b"1]}"),
    "many messages": padded(b'{"messages":[', b'{"role":"user","content":""},', b"1]}"),
    "many numbers": padded(b'{"message":"hi","logit_bias":{"1":[', b"1.5,", b"1]}}"),
    "an open text": padded(b'{"message":"', b"a", b""),
    "blanks": padded(b"{", b" ", b"}"),
}


def odd_models(folder: Path) -> list[str]:
    """Names of models that look like folders, and hang or loop when they are read."""
    pipes, loop = folder / "pipes", folder / "loop"
    pipes.mkdir()
    for name in ("config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"):
        os.mkfifo(pipes / name)
    os.mkfifo(folder / "pipe.gguf")
    loop.symlink_to(loop)
    devices = folder / "devices"
    devices.mkdir()
    for name in ("config.json", "model.safetensors"):
        (devices / name).symlink_to("/dev/zero")
    made = [str(each) for each in (pipes, folder / "pipe.gguf", loop, devices, folder / "nothing")]
    return [*made, "~nobody/x", "/dev/zero", "/proc/self", "/", "a" * 5_000]


@contextmanager
def lively(url: str) -> Iterator[None]:
    """Asks again and again during the block whether the server lives. It must always say so."""
    is_over = threading.Event()

    def ask() -> int:
        count = 0
        with httpx.Client(base_url=url, **LOCAL) as client:
            while not is_over.is_set():
                assert client.get("/health/live").status_code == 200
                count += 1
        return count

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            yield
        finally:
            is_over.set()
        assert asking.result(LIMIT_S) > 0


@contextmanager
def unaware_of_older_objects() -> Iterator[None]:
    """Lets garbage collections look at new objects alone, not at those that other tests left."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def test_odd_requests_do_not_keep_the_event_loop(tmp_path: Path) -> None:
    settings = Settings(
        model_name="none",
        allow_any_model=True,
        find_local_models=False,
        model_cache_dir=tmp_path / "cache",
        max_body_bytes=BODY_BYTES,
        _env_file=None,
    )
    heart = Heartbeat()
    requests = [(path, body) for body in ODD_BODIES.values() for path in (CHAT, NEW)]
    for name in odd_models(tmp_path):
        requests.append((LOAD, json.dumps({"model_name": name}).encode()))
        requests.append((CHAT, json.dumps({"message": "hi", "model_name": name}).encode()))

    with (
        unaware_of_older_objects(),
        serving(create_app(settings, heart.build)) as url,
        lively(url),
        ThreadPoolExecutor(4) as threads,
    ):

        def send(request: tuple[str, bytes]) -> int:
            path, body = request
            return httpx.post(f"{url}{path}", content=body, headers=JSON, **LOCAL).status_code

        statuses = list(threads.map(send, requests))
    assert {status // 100 for status in statuses} <= {2, 4, 5} and 500 not in statuses
    assert heart.longest_s < MOST_S


def test_heartbeat_notices_computing_on_the_loop() -> None:
    async def scenario() -> None:
        heart = Heartbeat()
        beating = asyncio.create_task(heart.beat())
        await until(lambda: heart.beats > 0)
        ends_at = time.thread_time() + MOST_S
        while time.thread_time() < ends_at:
            pass
        await until(lambda: heart.longest_s >= MOST_S)
        beating.cancel()

    asyncio.run(scenario())
