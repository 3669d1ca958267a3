"""Asks a backend whose remote engine is a stand-in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.core.catalogue import ModelProfile, RemoteEngine, Source
from app.core.deadline import Deadline
from app.core.errors import DomainError
from app.engine.backend import EngineBackend, GenerationEvent, ModelInput
from app.engine.ipc.messages import Accepted, ChatMessage, Delta, Finished, SamplingParams
from app.engine.remote.backend import RemoteBackend
from tests.engine.remote.standin import KEY, Json, StandInUpstream, running_upstream

HI = ModelInput((ChatMessage("user", "Hi"),))
GREEDY = SamplingParams(temperature=0, max_tokens=8)
SOON = 60.0


@dataclass
class Reply:
    """What a backend said to one request."""

    events: list[GenerationEvent] = field(default_factory=list)

    @property
    def accepted(self) -> Accepted:
        return next(event for event in self.events if isinstance(event, Accepted))

    @property
    def finished(self) -> Finished:
        return next(event for event in self.events if isinstance(event, Finished))

    @property
    def deltas(self) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta)]

    def text(self, kind: str = "text") -> str:
        return "".join(delta.text for delta in self.deltas if delta.kind == kind)


@asynccontextmanager
async def backend_of(upstream: StandInUpstream, key: str | None = KEY) -> AsyncIterator[RemoteBackend]:
    backend = await RemoteBackend.start(profile_of(upstream), engine_of(upstream), key)
    try:
        yield backend
    finally:
        await backend.close()


def engine_of(upstream: StandInUpstream) -> RemoteEngine:
    return RemoteEngine(upstream.url, "big")


def profile_of(upstream: StandInUpstream) -> ModelProfile:
    remote = engine_of(upstream)
    return ModelProfile("far", "Far", "Far away", (Source("big"),), 1000, None, None, remote=remote)


async def collect(
    backend: EngineBackend,
    model_input: ModelInput = HI,
    sampling: SamplingParams = GREEDY,
    within_s: float = SOON,
) -> Reply:
    reply = Reply()
    async with aclosing(backend.generate(model_input, sampling, Deadline.after(within_s))) as events:
        async for event in events:
            reply.events.append(event)
    return reply


def ask(
    upstream: StandInUpstream, model_input: ModelInput = HI, sampling: SamplingParams = GREEDY
) -> tuple[Reply, Json]:
    """Returns the reply, and the last body that the upstream was sent."""

    async def run() -> Reply:
        async with backend_of(upstream) as backend:
            return await collect(backend, model_input, sampling)

    with running_upstream(upstream):
        reply = asyncio.run(run())
    return reply, upstream.bodies[-1]


def refusal(
    upstream: StandInUpstream, model_input: ModelInput = HI, sampling: SamplingParams = GREEDY
) -> DomainError:
    with pytest.raises(DomainError) as caught:
        ask(upstream, model_input, sampling)
    assert KEY not in f"{caught.value.message} {caught.value.hint}"
    assert "127.0.0.1" not in f"{caught.value.message} {caught.value.hint}"
    return caught.value
