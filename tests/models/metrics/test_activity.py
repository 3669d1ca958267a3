"""The open requests and last failures that a caller sees."""

import asyncio
from contextlib import aclosing

import pytest

from app.core.deadline import Deadline
from app.core.errors import QueueFull
from app.core.telemetry.logging import request_id
from app.engine.backend import ModelInput
from app.models.chat.generation import ChatGenerator
from app.models.metrics.reporter import MetricsReporter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.schemas import RequestEntry, SamplingFields
from tests.models.stand_in import HELLO, StandInBackend, StandInModels


class Scene:
    """A generator, and what callers see of its requests."""

    def __init__(self, backend: StandInBackend) -> None:
        metrics = ServerMetrics()
        self.reporter = MetricsReporter(metrics)
        self.generator = ChatGenerator(StandInModels(backend), metrics=metrics.requests)

    async def look_after_each_event(self, owner: str, watcher: str) -> list[list[RequestEntry]]:
        """What the watcher sees after each event of a reply to the owner."""
        seen = []
        model_input = ModelInput(prompt="p", scope=owner)
        source = self.generator.generate(model_input, SamplingFields(), "stand-in", Deadline.after(60))
        async with aclosing(source) as events:
            async for _ in events:
                seen.append(self.reporter.activity(watcher).requests)
        return seen


def test_request_is_seen_in_its_stages_until_its_end() -> None:
    scene = Scene(StandInBackend(reply=HELLO))
    token = request_id.set("mine")
    seen = asyncio.run(scene.look_after_each_event("anna", "anna"))
    request_id.reset(token)
    found = [(entry.stage, entry.prompt_tokens, entry.completion_tokens) for (entry,) in seen]
    replies = [("reply", 3, tokens) for tokens in (1, 2, 3, 4)]
    assert found == [("model", 0, 0), ("prompt", 3, 0), *replies]
    assert {(entry.request_id, entry.model_name) for (entry,) in seen} == {("mine", "stand-in")}
    assert scene.reporter.activity("anna").requests == []


def test_another_caller_sees_neither_request_nor_failure() -> None:
    scene = Scene(StandInBackend(reply=HELLO))
    assert set(map(len, asyncio.run(scene.look_after_each_event("anna", "bob")))) == {0}
    failing = Scene(StandInBackend(refusal=QueueFull("The queue is full.")))
    with pytest.raises(QueueFull):
        asyncio.run(failing.look_after_each_event("anna", "anna"))
    assert failing.reporter.activity("bob").failures == []
    (failure,) = failing.reporter.activity("anna").failures
    assert (failure.code, failure.message, failure.model_name) == (
        QueueFull.code,
        "The queue is full.",
        "stand-in",
    )


def test_bug_is_seen_without_its_message() -> None:
    metrics = ServerMetrics()
    with pytest.raises(ZeroDivisionError), metrics.requests.track("anna", None):
        raise ZeroDivisionError("secret")
    (failure,) = MetricsReporter(metrics).activity("anna").failures
    assert failure.code == "internal_error" and "secret" not in failure.message
