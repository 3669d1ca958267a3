import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from app.core.catalogue import RemoteEngine, SamplingDefaults
from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import RateLimitExceeded, WorkerDied
from app.engine.backend import ModelInput
from app.models.chat.completion import TextGenerator
from app.models.chat.generation import ChatGenerator, ReplyEvent, sampling_for
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceGenerator
from app.models.key_limits import KeyLimits
from app.models.lifecycle.served_model import ServedModel
from app.models.schemas import (
    DeltaEvent,
    GenerateRequest,
    SamplingFields,
    StartEvent,
    ThinkingEvent,
)
from tests.models.conftest import collect, soon
from tests.models.stand_in import HELLO, LOADING, PROFILE, WHOLE, StandInBackend, StandInModels

PROMPT = ModelInput(prompt="the cat")
ALICE = replace(PROMPT, scope="alice")


def generate(models: StandInModels, request: SamplingFields) -> list[ReplyEvent]:
    generation = ChatGenerator(models).generate(PROMPT, request, "stand-in", Deadline.after(60))
    return asyncio.run(collect(generation))


def test_generate_yields_progress_start_deltas_and_the_whole_reply() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))
    progress, start, *deltas, reply = generate(models, SamplingFields(temperature=0))
    assert progress == LOADING
    assert isinstance(start, StartEvent)
    assert (start.model_name, start.model_id, start.omitted_messages) == ("stand-in", "tests/stand-in", 1)
    assert deltas == [ThinkingEvent(text="Well"), DeltaEvent(text="Hello"), DeltaEvent(text=" there")]
    assert isinstance(reply, GeneratedReply)
    assert (reply.text, reply.thinking, reply.finish_reason) == ("Hello there", "Well", "stop")
    assert (reply.parameters.temperature, reply.parameters.max_tokens) == (0, 20)
    assert (reply.usage.completion_tokens, reply.timings.tokens_per_second) == (4, 2.0)
    assert models.returned == 1


def test_generate_returns_the_model_when_it_is_left_early() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))

    async def leave() -> None:
        generation = ChatGenerator(models).generate(PROMPT, SamplingFields(), None, Deadline.after(60))
        async with aclosing(generation) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    return

    asyncio.run(leave())
    assert models.returned == 1


def test_generate_begins_a_request_again_that_its_worker_had_not_begun() -> None:
    models = StandInModels(StandInBackend(reply=HELLO, deaths=[0]))
    events = generate(models, SamplingFields())
    assert [type(event).__name__ for event in events[:3]] == ["LoadProgress", "LoadProgress", "StartEvent"]
    assert isinstance(events[-1], GeneratedReply)
    assert models.returned == 2


@pytest.mark.parametrize("deaths", [[0, 0], [1], [2], [0, 1]])
def test_generate_reports_the_death_of_a_worker_that_had_begun_or_died_twice(deaths: list[int]) -> None:
    models = StandInModels(StandInBackend(reply=HELLO, deaths=deaths))
    with pytest.raises(WorkerDied):
        generate(models, SamplingFields())
    assert models.returned == len(models.leased) <= 2


def test_request_is_open_and_its_tokens_count_also_if_it_is_left_early() -> None:
    async def leave(limits: KeyLimits) -> int:
        generator = ChatGenerator(StandInModels(StandInBackend(reply=HELLO)), limits)
        generation = generator.generate(ALICE, SamplingFields(), None, soon())
        async with aclosing(generation) as events:
            async for event in events:
                if isinstance(event, DeltaEvent):
                    break
            with pytest.raises(RateLimitExceeded):
                await collect(generator.generate(ALICE, SamplingFields(), None, soon()))
            await collect(generator.generate(replace(ALICE, scope="bob"), SamplingFields(), None, soon()))
        await collect(generator.generate(ALICE, SamplingFields(), None, soon()))
        return limits.budgets("alice")[0].remaining

    limits = KeyLimits(max_open_requests=1, tokens_per_minute=100)
    assert asyncio.run(leave(limits)) == 100 - (3 + 2) - (3 + 4)


def test_request_that_is_begun_again_counts_once() -> None:
    limits = KeyLimits(max_open_requests=1, tokens_per_minute=100)
    generator = ChatGenerator(StandInModels(StandInBackend(reply=HELLO, deaths=[0])), limits)
    asyncio.run(collect(generator.generate(ALICE, SamplingFields(), None, soon())))
    assert limits.budgets("alice")[0].remaining == 100 - (3 + 4)


def test_caller_without_tokens_is_refused_before_the_model_is_loaded() -> None:
    limits = KeyLimits(tokens_per_minute=7)
    models = StandInModels(StandInBackend(reply=HELLO))
    generator = ChatGenerator(models, limits)
    asyncio.run(collect(generator.generate(ALICE, SamplingFields(), None, soon())))
    with pytest.raises(RateLimitExceeded):
        asyncio.run(collect(generator.generate(ALICE, SamplingFields(), None, soon())))
    assert len(models.leased) == 1


def test_loading_and_generating_have_one_deadline_together() -> None:
    models = StandInModels(StandInBackend(reply=WHOLE))
    service = TextGenerator(ChoiceGenerator(Settings(_env_file=None), ChatGenerator(models)))
    asyncio.run(
        collect(service.generate("alice", GenerateRequest(prompt="the cat", num_return_sequences=2), soon()))
    )
    assert len(set(models.deadlines + models.backend.deadlines)) == 1
    assert len(models.backend.deadlines) == 2


def test_sampling_for_prefers_the_request_to_the_defaults() -> None:
    defaults = served(SamplingDefaults(max_tokens=10, temperature=0.7, top_k=5)).sampling
    params = sampling_for(SamplingFields(temperature=0, stop="\n", seed=0), defaults)
    assert (params.max_tokens, params.temperature, params.top_k) == (10, 0, 5)
    assert (params.stop, params.seed) == (("\n",), 0)
    assert sampling_for(SamplingFields(stop=["a", "b"]), defaults).stop == ("a", "b")


def served(profile: SamplingDefaults, generation_config: SamplingDefaults | None = None) -> ServedModel:
    described = replace(PROFILE, sampling=profile)
    own = SamplingDefaults() if generation_config is None else generation_config
    return ServedModel(described, PROFILE.sources[0], StandInBackend(), 1.0, own)


def test_sampling_is_of_the_profile_then_of_the_generation_config_then_the_default() -> None:
    own = SamplingDefaults(temperature=0.1, top_k=7, min_p=0.2)
    model = served(SamplingDefaults(temperature=0.5), own)
    origins = {name: (each.value, each.origin) for name, each in model.sampling.items()}
    assert origins == {
        "max_tokens": (1024, "default"),
        "temperature": (0.5, "profile"),
        "top_p": (0.9, "default"),
        "top_k": (7, "generation_config"),
        "min_p": (0.2, "generation_config"),
        "repetition_penalty": (1.0, "default"),
    }
    params = sampling_for(SamplingFields(min_p=0.0), model.sampling)
    assert (params.temperature, params.top_k, params.min_p, params.top_p) == (0.5, 7, 0.0, 0.9)
    assert isinstance(params.top_k, int) and isinstance(params.max_tokens, int)


def test_remote_engine_decides_what_nobody_set() -> None:
    model = served(SamplingDefaults(temperature=0.5))
    far = replace(model, profile=replace(model.profile, remote=RemoteEngine("http://127.0.0.1:1/v1", "big")))
    assert {name: each.value for name, each in far.sampling.items()} == {
        "max_tokens": 1024,
        "temperature": 0.5,
    }
    assert sampling_for(SamplingFields(top_k=3), far.sampling).left_to_engine == (
        "top_p",
        "min_p",
        "repetition_penalty",
    )
    assert sampling_for(SamplingFields(), model.sampling).left_to_engine == ()
