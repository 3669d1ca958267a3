"""Several answers, log-probabilities, forms and penalties work with own caches, too."""

import re
from collections.abc import Callable

import pytest
import torch

from app.engine.ipc.messages import Deltas, Grammar, PromptLogprobs, SamplingParams, Submit, TokenLogprob
from tests.engine.own_cache.models import OwnCacheModel
from tests.engine.tiny import DEVICE, Collected, greedy, run

PROMPT = "the cat sat on the mat, 日本語 and é 👍 too. " * 5
ONE_OF_EACH_KIND = ("qwen3_5_text", "lfm2", "falcon_h1", "jamba", "mamba2", "rwkv", "deepseek_v3", "bloom")

OwnModel = Callable[[str], OwnCacheModel]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("step_tokens", [16, 256])
def test_several_answers_compute_their_prompt_once(own_model: OwnModel, name: str, step_tokens: int) -> None:
    own = own_model(name)
    length = len(own.tokenizer(PROMPT).input_ids)
    submits = [
        Submit(str(seed), SamplingParams(max_tokens=12, temperature=1.0, seed=seed), prompt=PROMPT)
        for seed in range(4)
    ]
    together = run(own.engine(step_tokens=step_tokens), *submits)
    assert [together.cached(str(seed)) > length - 20 for seed in range(4)] == [False, True, True, True]
    assert len(set(together.texts.values())) > 1
    for submit in submits:
        assert run(own.engine(), submit).texts.items() <= together.texts.items()


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_another_end_of_the_same_prompt_continues_before_it(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    engine, other = own.engine(), PROMPT + "on the mat and more"
    run(engine, greedy("a", PROMPT + "the", 8))
    replies = run(engine, greedy("b", other, 8))
    assert replies.texts["b"] == own.generate(other, 8)
    shared = len(own.tokenizer(PROMPT).input_ids)
    assert replies.cached("b") >= (shared - 17 if own.path.is_divisible else 0)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_log_probabilities_are_those_of_the_model(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    params = SamplingParams(max_tokens=6, temperature=0, top_logprobs=2)
    engine = own.engine()
    engine.submit(Submit("a", params, prompt=PROMPT, prompt_logprobs=True))
    prompt: list[TokenLogprob] = []
    reply: list[TokenLogprob] = []
    while not engine.is_idle:
        for message in engine.step():
            match message:
                case PromptLogprobs():
                    prompt += message.tokens
                case Deltas():
                    reply += [token for delta in message.items for token in delta.logprobs]
    ids = own.tokenizer(PROMPT, return_tensors="pt").input_ids
    ids = torch.cat((ids, torch.tensor([[token.token_id for token in reply]])), dim=1)
    with torch.inference_mode():
        logits = own.reference(input_ids=ids.to(DEVICE), use_cache=False).logits[0].cpu()
    expected = logits.float().log_softmax(-1)
    found = torch.tensor([token.logprob for token in (*prompt[1:], *reply)])
    rows = torch.arange(ids.shape[1] - 1)
    torch.testing.assert_close(found, expected[rows, ids[0, 1:]], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_replies_have_the_form_of_their_grammar(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    form = "[a-c]{5}-[0-9]{3}"
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=1)
    submit = Submit("a", params, prompt=PROMPT, grammar=Grammar("regex", form))
    replies = run(own.engine(), submit, greedy("b", "the cat"))
    assert re.fullmatch(form, replies.texts["a"])
    assert replies.texts["b"] == own.generate("the cat", 24)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_penalties_are_those_of_transformers(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    params = SamplingParams(max_tokens=20, temperature=0, repetition_penalty=1.3)
    replies: Collected = run(own.engine(), Submit("a", params, prompt=PROMPT))
    assert replies.texts["a"] == own.generate(PROMPT, 20, repetition_penalty=1.3)
