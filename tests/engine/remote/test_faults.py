"""Remote engines that misbehave: each ends the request with one error, and harms nothing else."""

import asyncio
import gzip
from contextlib import suppress

import pytest

from app.core.catalogue import RemoteEngine
from app.core.deadline import Deadline
from app.core.errors import DomainError, ModelLoadFailed, ModelUnavailable, QueueFull, WorkerDied
from app.engine.ipc.messages import TokenCounts
from app.engine.remote.backend import RemoteBackend, WatchTimes
from tests.engine.remote.asking import HI, SOON, ask, backend_of, collect, engine_of, profile_of, refusal
from tests.engine.remote.standin import StandInUpstream, piece, running_upstream
from tests.waiting import until

_OPEN = 260  # replies at a time
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\x00\xff\x16\x03garbage\n\nmore of it", "broke off"),
        (b"data: " + b"x" * 9_000_000, "too long"),
        (b": ping\n" * 1_500_000, "too long"),
        (b"data: " + b"[" * 100_000 + b"\n\n", "not JSON"),
        (b"data: {\n\n", "not JSON"),
        (b"data: 7\n\n", "not an object"),
        (b'data: {"choices": 7}\n\n', "unknown form"),
        (b'data: {"choices": [7]}\n\n', "unknown form"),
        (b'data: {"choices": [{"delta": {"content": [{"type": "text"}]}}]}\n\n', "unknown form"),
        (
            b'data: {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [1]}}]}\n\n',
            "unknown form",
        ),
        (b'event: error\ndata: {"error": "out of memory"}\n\n', "out of memory"),
        (b"", "broke off"),
    ],
)
def test_stream_that_cannot_be_read_is_one_error(raw: bytes, said: str) -> None:
    error = refusal(StandInUpstream(raw=raw))
    assert isinstance(error, ModelUnavailable)
    assert said in error.message


def test_answer_that_is_not_a_stream_is_one_error() -> None:
    error = refusal(StandInUpstream(raw=b'{"choices": []}', media_type="application/json"))
    assert "not a stream" in error.message


@pytest.mark.parametrize(
    "usage",
    [
        "x",
        7,
        [1],
        {"prompt_tokens": -5, "completion_tokens": True},
        {"prompt_tokens_details": "x", "completion_tokens_details": [1]},
        {"prompt_tokens": 1.5, "completion_tokens": 10**30},
    ],
)
def test_usage_that_makes_no_sense_is_not_taken_over(usage: object) -> None:
    reply, _ = ask(StandInUpstream(chunks=[piece(content="a"), piece("stop"), {"usage": usage}]))
    assert reply.finished.usage == TokenCounts(0, 1, 0)


@pytest.mark.parametrize("models", [{"data": 5}, {"data": [5]}, 5])
def test_list_of_models_that_makes_no_sense_has_no_model(models: object) -> None:
    with pytest.raises(ModelLoadFailed):
        ask(StandInUpstream(answers={"/v1/models": (models,)}))


@pytest.mark.parametrize("length", [-3, 0, True, "many"])
def test_facts_about_a_model_that_make_no_sense_are_not_taken_over(length: object) -> None:
    async def run() -> int:
        async with backend_of(upstream) as backend:
            return backend.info.context_length

    with running_upstream(StandInUpstream(card={"max_model_len": length, "aliases": length})) as upstream:
        assert asyncio.run(run()) == 1000


def test_many_comments_between_events_are_no_fault() -> None:
    pings = b": ping\n\n" * 10
    reply, _ = ask(StandInUpstream(raw=pings + EVENT + pings))
    assert reply.text() == "Hi"


def test_stream_is_asked_for_without_compression_and_read_with_it() -> None:
    upstream = StandInUpstream(raw=gzip.compress(EVENT), stream_headers={"content-encoding": "gzip"})
    reply, _ = ask(upstream)
    assert reply.text() == "Hi"
    assert upstream.headers[0]["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_key_does_not_follow_a_redirect(status: int) -> None:
    with running_upstream(StandInUpstream()) as elsewhere:
        location = f"{elsewhere.url}/chat/completions"
        upstream = StandInUpstream(refusals=[(status, {})], refusal_headers={"location": location})
        assert "redirects" in refusal(upstream).message
        assert elsewhere.headers == []


@pytest.mark.parametrize(
    ("given", "seconds"), [("7", 7), ("999999999999", 3600), ("soon", 2), ("-1", 2), ("1.5", 2)]
)
def test_time_to_wait_is_taken_over_if_it_makes_sense(given: str, seconds: int) -> None:
    for status, kind in ((429, QueueFull), (503, WorkerDied)):
        upstream = StandInUpstream(refusals=[(status, {})], refusal_headers={"retry-after": given})
        error = refusal(upstream)
        assert isinstance(error, kind)
        assert error.retry_after == seconds


async def start_at(url: str) -> None:
    backend = await RemoteBackend.start(profile_of(StandInUpstream()), RemoteEngine(url, "big"), "a-key")
    await backend.close()


def test_plain_server_behind_https_is_named() -> None:
    with running_upstream(StandInUpstream()) as upstream, pytest.raises(ModelUnavailable, match="TLS"):
        asyncio.run(start_at(upstream.url.replace("http://", "https://")))


def test_server_that_speaks_something_else_is_one_error() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ModelUnavailable, match="cannot be reached"):
                await start_at(f"http://127.0.0.1:{port}/v1")

    asyncio.run(run())


@pytest.mark.parametrize(("status", "is_gone"), [(500, False), (503, True)])
def test_engine_is_gone_after_failures_that_are_its_own(status: int, is_gone: bool) -> None:
    upstream = StandInUpstream(refusals=[(status, {})] * 3)

    async def run() -> None:
        async with backend_of(upstream) as backend:
            for _ in range(3):
                with suppress(DomainError):
                    await collect(backend)
            assert (backend.failure is not None) is is_gone

    with running_upstream(upstream):
        asyncio.run(run())


@pytest.mark.parametrize("silent_after", [0, 1])
def test_reply_of_an_engine_that_falls_silent_ends(silent_after: int) -> None:
    """Its connection stays open, as that to a host that lost its power."""
    upstream = StandInUpstream(silent_after=silent_after)

    async def run() -> None:
        engine, times = engine_of(upstream), WatchTimes(every_s=0.05, answer_s=0.05)
        backend = await RemoteBackend.start(profile_of(upstream), engine, None, times=times)
        with pytest.raises(WorkerDied):
            await collect(backend)
        assert backend.failure is not None
        await backend.close()

    with running_upstream(upstream):
        asyncio.run(run())


def test_more_open_replies_than_a_pool_has_places_do_not_hide_the_engine() -> None:
    """Questions such as that for its health get through, whatever is open."""
    upstream = StandInUpstream(is_endless=True, pause_s=0.5)

    async def run() -> None:
        async with backend_of(upstream) as backend:
            replies = [asyncio.create_task(collect(backend)) for _ in range(_OPEN)]
            await until(lambda: len(upstream.bodies) == _OPEN, "all requests")
            count = await backend.count_tokens(HI, Deadline.after(SOON))
            assert count == 1
            for reply in replies:
                reply.cancel()
            await asyncio.gather(*replies, return_exceptions=True)
            await until(lambda: backend.stats.open_requests == 0, "their end")

    with running_upstream(upstream):
        asyncio.run(run())
