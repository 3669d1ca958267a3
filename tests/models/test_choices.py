import asyncio
from contextlib import aclosing

import pytest

from app.core.config import Settings
from app.core.errors import ContextOverflow, InvalidRequest, WorkerDied
from app.engine.backend import ModelInput
from app.models.chat.generation import ChatGenerator
from app.models.chat.reply import GeneratedReply
from app.models.choices import ChoiceGenerator
from app.models.schemas import LoadProgress, SamplingFields
from tests.models.conftest import collect, soon
from tests.models.stand_in import HELLO, WHOLE, StandInBackend, StandInModels

SETTINGS = Settings(_env_file=None, key_max_open_requests=3)


def test_each_reply_is_complete_and_ends_once() -> None:
    models = StandInModels(StandInBackend(reply=WHOLE))
    choices = ChoiceGenerator(SETTINGS, ChatGenerator(models))
    run = choices.generate(ModelInput(prompt="x"), SamplingFields(), None, soon(), 3)
    events = asyncio.run(collect(run))
    replies = {index: event for index, event in events if isinstance(event, GeneratedReply)}
    assert sorted(replies) == [0, 1, 2]
    assert models.returned == len(models.leased) == 3


def test_a_failure_ends_all_replies() -> None:
    async def scenario() -> None:
        models = StandInModels(StandInBackend(reply=WHOLE, deaths=[2, 2, 2]))
        choices = ChoiceGenerator(SETTINGS, ChatGenerator(models))
        with pytest.raises(WorkerDied):
            await collect(choices.generate(ModelInput(prompt="x"), SamplingFields(), None, soon(), 2))
        assert models.returned == len(models.leased)

    asyncio.run(scenario())


def test_messages_that_do_not_all_fit_are_refused_instead_of_cut() -> None:
    models = StandInModels(StandInBackend(reply=HELLO))  # it omits a message
    choices = ChoiceGenerator(SETTINGS, ChatGenerator(models))
    with pytest.raises(ContextOverflow, match="context window"):
        asyncio.run(collect(choices.generate(ModelInput(prompt="x"), SamplingFields(), None, soon())))


def test_no_reply_begins_before_all_prompts_are_accepted() -> None:
    async def scenario() -> list[object]:
        backend = StandInBackend(reply=WHOLE, refusals={"b": ContextOverflow("too long")})
        models = StandInModels(backend)
        choices = ChoiceGenerator(SETTINGS, ChatGenerator(models))
        inputs = [ModelInput(prompt="a"), ModelInput(prompt="b")]
        seen: list[object] = []
        with pytest.raises(ContextOverflow, match="prompt.1: too long"):
            async for _, event in choices.generate_all(inputs, SamplingFields(), None, soon()):
                seen.append(event)
        assert models.returned == len(models.leased)
        return seen

    assert set(map(type, asyncio.run(scenario()))) == {LoadProgress}


def test_each_prompt_keeps_its_keys_and_values_and_has_its_logprobs_once() -> None:
    backend = StandInBackend(reply=WHOLE)
    choices = ChoiceGenerator(Settings(_env_file=None), ChatGenerator(StandInModels(backend)))
    inputs = [ModelInput(prompt=prompt, prompt_logprobs=True) for prompt in "ab"]
    asyncio.run(collect(choices.generate_all(inputs, SamplingFields(top_logprobs=0), None, soon(), 2)))
    assert [request.is_kept for request in backend.requests] == [True, False, True, False]
    assert [request.prompt_logprobs for request in backend.requests] == [True, False, True, False]


def test_more_prompts_than_a_caller_may_have_open_are_refused_as_invalid() -> None:
    choices = ChoiceGenerator(SETTINGS, ChatGenerator(StandInModels(StandInBackend(reply=WHOLE))))
    with pytest.raises(InvalidRequest, match="prompt: these are 4 replies, .* at most 3 at once"):
        choices.generate_all([ModelInput(prompt="x")] * 2, SamplingFields(), None, soon(), 2)


def test_leaving_early_cancels_all_replies() -> None:
    async def scenario() -> None:
        models = StandInModels(StandInBackend(reply=WHOLE[:1], is_endless=True))
        choices = ChoiceGenerator(SETTINGS, ChatGenerator(models))
        run = choices.generate(ModelInput(prompt="x"), SamplingFields(), None, soon(), 2)
        async with aclosing(run) as events:
            await anext(events)
        assert models.returned == len(models.leased)

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))


def test_more_replies_than_a_caller_may_have_open_are_refused_as_invalid() -> None:
    choices = ChoiceGenerator(SETTINGS, ChatGenerator(StandInModels(StandInBackend(reply=WHOLE))))
    with pytest.raises(InvalidRequest, match="n: these are 4 replies, .* at most 3 at once"):
        choices.generate(ModelInput(prompt="x"), SamplingFields(), None, soon(), 4)


def test_only_the_first_reply_has_the_logprobs_of_the_prompt() -> None:
    backend = StandInBackend(reply=WHOLE)
    choices = ChoiceGenerator(SETTINGS, ChatGenerator(StandInModels(backend)))
    prompt = ModelInput(prompt="x", prompt_logprobs=True)
    asyncio.run(collect(choices.generate(prompt, SamplingFields(top_logprobs=0), None, soon(), 3)))
    assert [request.prompt_logprobs for request in backend.requests] == [True, False, False]
