"""Requests with biases, bans and stop rules of their own, through the whole engine, also with speculation."""

import re
from typing import Any

import pytest

from app.engine.ipc.messages import Failed, SamplingParams, Submit
from tests.engine.tiny import TinyModel, configs, ended, greedy, make_tokenizer, run

TOKENS = 40


def submit(
    request_id: str = "a", prompt: str = "the cat", **sampling: Any
) -> Submit:  # as SamplingParams types each
    defaults: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0}
    return Submit(request_id, SamplingParams(**(defaults | sampling)), prompt=prompt)


@pytest.fixture(params=[0, 8])
def speculation_rows(request: pytest.FixtureRequest) -> int:
    rows: int = request.param
    return rows


def test_engine_logit_bias_decides_the_reply(llama: TinyModel, speculation_rows: int) -> None:
    biased = submit(logit_bias=dict.fromkeys(llama.tokenizer("cat").input_ids[:1], 100.0))
    engine = llama.engine(speculation_rows=speculation_rows)
    collected = run(engine, biased, greedy("plain", "the cat", TOKENS))
    first = llama.decode(llama.tokenizer("cat").input_ids[:1])
    assert collected.texts["a"] == first * TOKENS
    assert collected.texts["plain"] == llama.generate("the cat", TOKENS)


@pytest.mark.parametrize("field", ["logit_bias", "stop_token_ids"])
@pytest.mark.parametrize("token", [-1, 300, 2**31 - 1])
def test_engine_refuses_tokens_that_are_not_in_the_vocabulary(
    llama: TinyModel, field: str, token: int
) -> None:
    token = token if token != 300 else len(llama.tokenizer)
    value: Any = {token: 1.0} if field == "logit_bias" else (token,)
    failed = run(llama.engine(), submit(**{field: value})).ends["a"]
    assert isinstance(failed, Failed)
    assert failed.code == "invalid_request"
    assert field in failed.message and str(token) in failed.message


def test_engine_stop_token_ends_the_reply_before_its_text(llama: TinyModel, speculation_rows: int) -> None:
    ids = llama.generate_ids("the cat", TOKENS)
    stop = ids[5]
    cut = ids[: ids.index(stop)]
    engine = llama.engine(speculation_rows=speculation_rows)
    collected = run(
        engine,
        submit(stop_token_ids=(stop,)),
        submit("with", stop_token_ids=(stop,), include_stop_str_in_output=True),
    )
    assert collected.texts["a"] == llama.decode(cut)
    assert collected.texts["with"] == llama.decode([*cut, stop])
    assert ended(collected).finish_reason == ended(collected, "with").finish_reason == "stop"
    assert ended(collected).usage.completion_tokens == len(cut) + 1


def test_engine_stop_string_is_included_if_asked_for(llama: TinyModel) -> None:
    whole = run(llama.engine(), greedy("a", "the cat")).texts["a"]
    stop = whole[6:9]
    text = run(llama.engine(), submit(stop=(stop,), include_stop_str_in_output=True)).texts["a"]
    assert text == whole[: whole.index(stop) + len(stop)]


def test_engine_ignores_the_models_own_stop_ids_if_asked_to(llama: TinyModel, speculation_rows: int) -> None:
    first_id = llama.generate_ids("the cat", 1)[0]
    llama.packed.generation_config.eos_token_id = [1, first_id]
    try:
        engine = llama.engine(speculation_rows=speculation_rows)
        collected = run(engine, submit(ignore_eos=True), submit("stops"), submit("least", min_tokens=10))
    finally:
        llama.packed.generation_config.eos_token_id = 1
    assert ended(collected, "stops").usage.completion_tokens == 1
    assert ended(collected).usage.completion_tokens == TOKENS
    assert ended(collected).finish_reason == "length"
    assert ended(collected, "least").usage.completion_tokens >= 10
    assert not collected.texts["least"].startswith(llama.decode([first_id]))


def test_engine_bans_the_tokens_that_the_generation_config_bans(speculation_rows: int) -> None:
    tokenizer = make_tokenizer()
    model = TinyModel.build(configs(len(tokenizer))["llama"], tokenizer)
    free = model.generate_ids("the cat", TOKENS)
    for each in (model.reference, model.packed):
        each.generation_config.suppress_tokens = [free[3], free[5]]
        each.generation_config.begin_suppress_tokens = [free[0]]
    banned = model.generate_ids("the cat", TOKENS)
    assert free[0] != banned[0] and not {free[3], free[5]} & set(banned)
    engine = model.engine(speculation_rows=speculation_rows)
    assert run(engine, greedy("a", "the cat", TOKENS)).texts["a"] == model.generate("the cat", TOKENS)


def test_engine_min_tokens_come_before_a_stop_string(llama: TinyModel) -> None:
    whole = run(llama.engine(), greedy("a", "the cat", TOKENS)).texts["a"]
    character = next(each for each in whole if each != "\ufffd")
    collected = run(llama.engine(), submit(stop=(character,), min_tokens=12))
    assert ended(collected).usage.completion_tokens >= 12
    assert character in collected.texts["a"]


@pytest.mark.parametrize("seed", range(8))
def test_engine_reply_has_no_bad_word(llama: TinyModel, seed: int, speculation_rows: int) -> None:
    """The words are taken from the reply without the ban: of one token and of several."""
    free = submit(temperature=1.5, seed=seed, ignore_eos=True)
    whole = run(llama.engine(), free).texts["a"]
    words = tuple(re.findall("[^\ufffd]{1,4}", whole)[:4])
    assert words
    banned = submit(temperature=1.5, seed=seed, ignore_eos=True, bad_words=words)
    collected = run(llama.engine(speculation_rows=speculation_rows), banned, greedy("plain", "the cat", 8))
    assert not any(word in collected.texts["a"] for word in words)
    assert ended(collected).usage.completion_tokens == TOKENS
    assert collected.texts["plain"] == llama.generate("the cat", 8)
