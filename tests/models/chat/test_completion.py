import asyncio

import pytest

from app.core.config import Settings
from app.core.errors import InvalidRequest
from app.models.chat.completion import TextGenerator
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from app.models.schemas import DeltaEvent, GenerateRequest, GenerateResponse, StartEvent
from tests.engine.tiny import WINDOW
from tests.models.conftest import World, collect, soon
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels

OWNER = "alice"


def text_generator(backend: StandInBackend, settings: Settings | None = None) -> TextGenerator:
    generator = ChatGenerator(StandInModels(backend))
    return TextGenerator(ChoiceGenerator(settings or Settings(_env_file=None), generator))


def test_generate_continues_the_prompt(world: World) -> None:
    request = GenerateRequest(prompt="the cat", max_tokens=6, do_sample=False)
    start, *deltas, done = world.collect(world.generator.generate(OWNER, request, soon()))
    assert isinstance(start, StartEvent)
    assert isinstance(done, GenerateResponse)
    assert "".join(delta.text for delta in deltas if isinstance(delta, DeltaEvent)) == done.generated_text[0]
    assert done.parameters.temperature == 0
    assert done.prompt == "the cat"


def test_generate_repeats_several_sequences_with_the_same_seed(world: World) -> None:
    request = GenerateRequest(prompt="the cat", max_tokens=8, num_return_sequences=3, seed=7, temperature=1)
    first = world.last(world.generator.generate(OWNER, request, soon()))
    second = world.last(world.generator.generate(OWNER, request, soon()))
    assert len(set(first.generated_text)) == 3
    assert first.generated_text == second.generated_text
    assert len(first.finish_reasons) == 3
    assert first.usage.completion_tokens > first.timings.total_s


def test_generate_reports_the_limit_that_the_context_window_left(world: World) -> None:
    request = GenerateRequest(prompt="the cat", max_tokens=1_000_000, seed=1)
    done = world.last(world.generator.generate(OWNER, request, soon()))
    assert done.parameters.max_tokens == WINDOW - done.usage.prompt_tokens
    used = world.chat("hello", max_tokens=5).parameters
    assert used is not None and used.max_tokens == 5


def test_generate_refuses_more_sequences_than_are_ever_admitted_as_invalid(world: World) -> None:
    request = GenerateRequest(prompt="the cat", num_return_sequences=7)  # 4 run and 2 wait
    with pytest.raises(InvalidRequest, match="num_return_sequences: .* at most 6 at once"):
        world.collect(world.generator.generate(OWNER, request, soon()))


def test_generate_refuses_more_sequences_than_a_caller_may_have_open_as_invalid() -> None:
    settings = Settings(_env_file=None, key_max_open_requests=2)
    generator = text_generator(StandInBackend(reply=WHOLE), settings)
    request = GenerateRequest(prompt="the cat", num_return_sequences=3)
    with pytest.raises(InvalidRequest, match="at most 2 at once") as caught:
        asyncio.run(collect(generator.generate(OWNER, request, soon())))
    assert "LLM_KEY_MAX_OPEN_REQUESTS" in str(caught.value.hint)


def test_generate_keeps_one_of_several_sequences_for_later_requests() -> None:
    """All begin with the same prompt."""
    backend = StandInBackend(reply=WHOLE)
    generator = text_generator(backend)
    for sequences, kept in ((1, [True]), (3, [True, False, False])):
        backend.requests.clear()
        request = GenerateRequest(prompt="the cat", num_return_sequences=sequences)
        asyncio.run(collect(generator.generate(OWNER, request, soon())))
        assert [model_input.is_kept for model_input in backend.requests] == kept


def test_generate_sends_the_owner_as_the_scope_of_the_cache() -> None:
    backend = StandInBackend(reply=WHOLE)
    generator = text_generator(backend)
    for sequences in (1, 2):
        request = GenerateRequest(prompt="the cat", num_return_sequences=sequences)
        asyncio.run(collect(generator.generate(OWNER, request, soon())))
    assert [model_input.scope for model_input in backend.requests] == [OWNER] * 3


def test_cached_keys_and_values_are_shared_within_one_owner_only(world: World) -> None:
    request = GenerateRequest(prompt="the cat sat on the mat, the dog did not", max_tokens=2, do_sample=False)
    done = {
        owner: [world.last(world.generator.generate(owner, request, soon())) for _ in range(2)]
        for owner in ("carol", "dave")
    }
    for first, second in done.values():
        assert first.usage.cached_tokens == 0
        assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert done["carol"][0].generated_text == done["dave"][0].generated_text


def test_generate_reports_logprobs_of_prompt_and_reply(world: World) -> None:
    request = GenerateRequest(prompt="the cat", max_tokens=6, top_logprobs=3, prompt_logprobs=True, seed=2)
    _, *deltas, done = world.collect(world.generator.generate(OWNER, request, soon()))
    assert isinstance(done, GenerateResponse)
    assert done.logprobs is not None and done.prompt_logprobs is not None
    streamed = [entry for delta in deltas if isinstance(delta, DeltaEvent) for entry in delta.logprobs or ()]
    assert done.logprobs == [streamed]
    assert all(len(entry.top_logprobs) == 3 for entry in streamed)
    assert b"".join(bytes(entry.bytes) for entry in done.prompt_logprobs) == b"the cat"
    assert [entry.logprob is None for entry in done.prompt_logprobs] == [
        place == 0 for place in range(done.usage.prompt_tokens)
    ]


def test_generate_reports_logprobs_of_each_of_several_sequences(world: World) -> None:
    request = GenerateRequest(prompt="the cat", max_tokens=4, top_logprobs=0, num_return_sequences=2)
    done = world.last(world.generator.generate(OWNER, request, soon()))
    assert done.logprobs is not None and len(done.logprobs) == 2
    assert done.prompt_logprobs is None
