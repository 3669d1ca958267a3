"""The figures of requests to models."""

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given, strategies as st

from app.core.deadline import Deadline
from app.core.errors import DomainError, QueueFull
from app.core.literals import FinishReason
from app.engine.backend import GenerationEvent, ModelInput
from app.engine.ipc.messages import Accepted, Delta, Finished, RequestTimings, TokenCounts
from app.models.chat.generation import ChatGenerator
from app.models.metrics.labels import MAX_MODELS, OTHER, ModelLabels
from app.models.metrics.reporter import MetricsReporter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.schemas import SamplingFields
from tests.models.metrics.exposition import Figures, figures_of
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

ENDS = "vllm:request_success_total"


@dataclass
class Ticking:
    """A clock that moves by one second with each reading."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


@dataclass
class Scene:
    """A generator whose figures are read."""

    backend: StandInBackend
    metrics: ServerMetrics = field(default_factory=lambda: ServerMetrics(Ticking()))

    async def generate(self, events: int | None = None) -> None:
        """Reads so many events of a reply, or all, and leaves."""
        generator = ChatGenerator(StandInModels(self.backend), metrics=self.metrics.requests)
        request = SamplingFields()
        source = generator.generate(ModelInput(prompt="p"), request, "stand-in", Deadline.after(60))
        async with aclosing(source) as reply:
            while events is None or events > 0:
                if await anext(reply, None) is None:
                    return
                events = None if events is None else events - 1

    def figures(self) -> Figures:
        return figures_of(MetricsReporter(self.metrics))


def test_whole_reply_counts_tokens_times_and_its_end() -> None:
    scene = Scene(StandInBackend(reply=HELLO))
    asyncio.run(scene.generate())
    figures = scene.figures()
    totals = {
        "vllm:prompt_tokens_total": 3,
        "vllm:generation_tokens_total": 4,
        "vllm:prefix_cache_queries_total": 3,
        "vllm:prefix_cache_hits_total": 2,
        "vllm:time_to_first_token_seconds_count": 1,
        "vllm:inter_token_latency_seconds_count": 2,
        "vllm:e2e_request_latency_seconds_count": 1,
        "vllm:request_queue_time_seconds_count": 1,
        "vllm:request_prefill_time_seconds_sum": 0.5,
        "vllm:request_decode_time_seconds_sum": 1.5,
    }
    assert {name: figures.total(name, model_name="stand-in") for name in totals} == totals
    assert figures.total(ENDS, finished_reason="stop") == figures.total(ENDS) == 1


def test_reply_that_its_client_leaves_counts_as_abort_with_the_tokens_so_far() -> None:
    scene = Scene(StandInBackend(reply=HELLO[:3], is_endless=True))
    asyncio.run(scene.generate(events=4))  # progress, start, thinking, text
    figures = scene.figures()
    assert figures.total(ENDS, finished_reason="abort") == figures.total(ENDS) == 1
    assert figures.total("vllm:generation_tokens_total") == 2


def test_cancelled_task_counts_as_abort() -> None:
    scene = Scene(StandInBackend(reply=HELLO[:3], is_endless=True))

    async def cancel() -> None:
        task = asyncio.create_task(scene.generate())
        while not scene.backend.requests:
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert scene.figures().total(ENDS, finished_reason="abort") == 1


def test_refusal_counts_as_error_with_its_code() -> None:
    scene = Scene(StandInBackend(refusal=QueueFull("The queue is full.")))
    with pytest.raises(QueueFull):
        asyncio.run(scene.generate())
    figures = scene.figures()
    assert figures.total(ENDS, finished_reason="error") == figures.total(ENDS) == 1
    assert figures.total("llm_request_failures_total", code=QueueFull.code) == 1


def test_request_whose_worker_dies_first_counts_for_both_attempts_and_fails_in_none() -> None:
    scene = Scene(StandInBackend(reply=HELLO, deaths=[0]))
    asyncio.run(scene.generate())
    figures = scene.figures()
    assert (figures.total(ENDS, finished_reason="error"), figures.total(ENDS, finished_reason="stop")) == (
        1,
        1,
    )
    assert figures.total("llm_request_failures_total") == 0


@given(
    deltas=st.lists(st.integers(0, 5), max_size=6),
    more=st.integers(0, 3),
    ends=st.sampled_from(["stop", "length", "leave", "die"]),
)
def test_every_request_ends_once_and_each_token_counts_once(deltas: list[int], more: int, ends: str) -> None:
    sums = [sum(deltas[: index + 1]) for index in range(len(deltas))]
    total = sum(deltas) + more
    events: list[GenerationEvent] = [Accepted("r", 5, 0, 100)]
    events += [Delta("r", "x", count) for count in sums]
    if ends in ("stop", "length"):
        finish: FinishReason = "stop" if ends == "stop" else "length"
        events.append(Finished("r", finish, TokenCounts(5, total, 0), RequestTimings(0, 0, 0)))
    # Having begun, a reply is not repeated.
    scene = Scene(StandInBackend(reply=events, deaths=[len(events)] if ends == "die" else []))
    with suppress(DomainError):
        asyncio.run(scene.generate(events=len(events) + 1 if ends == "leave" else None))
    figures = scene.figures()
    reason = {"leave": "abort", "die": "error"}.get(ends, ends)
    assert figures.total(ENDS) == figures.total(ENDS, finished_reason=reason) == 1
    assert figures.total("vllm:prompt_tokens_total") == 5
    assert figures.total("vllm:generation_tokens_total") == (
        total if ends in ("stop", "length") else sum(deltas)
    )


@pytest.mark.parametrize("reported", [(1,), (1, 3), ()])
def test_remote_engine_may_report_fewer_tokens_than_pieces(reported: tuple[int, ...]) -> None:
    deltas = [Delta("r", "x", count) for count in (1, 2, 3, *reported)]
    finished = Finished("r", "stop", TokenCounts(5, 1, 0), RequestTimings(0, 0, 0))
    scene = Scene(StandInBackend(reply=[Accepted("r", None, 0, 100), *deltas, finished]))
    asyncio.run(scene.generate())
    figures = scene.figures()
    assert figures.total("vllm:generation_tokens_total") == 3  # a counter cannot go back
    assert figures.total(ENDS, finished_reason="stop") == figures.total(ENDS) == 1


def test_further_models_share_one_label() -> None:
    labels = ModelLabels()
    assert [labels.of(str(number)) for number in range(MAX_MODELS)] == list(map(str, range(MAX_MODELS)))
    assert labels.of("one more") == OTHER and labels.of("0") == "0"
