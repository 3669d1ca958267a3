"""A panic inside the tokenizers library fails one request, and no other."""

from collections.abc import Set
from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import Failed, Finished, SamplingParams, Submit
from app.engine.tokenization.panics import panics_as_errors
from tests.engine.tiny import Collected, TinyModel, finish, greedy, wrap

POISON = "a" * 40 + "!"  # the expression below backtracks on it until the library panics


def panicking(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    split = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    return wrap(backend, bos_token="<|bos|>", eos_token="<|end|>")


def test_panic_fails_its_request_alone(llama: TinyModel) -> None:
    engine = replace(llama, tokenizer=panicking(llama.tokenizer)).engine()
    collected = Collected()
    engine.submit(greedy("sound", "the cat", 12))
    engine.submit(greedy("poison", POISON))
    finish(engine, collected)
    assert isinstance(collected.ends["sound"], Finished)
    failed = collected.ends["poison"]
    assert isinstance(failed, Failed)
    assert (failed.code, "aaa" in failed.message) == (InvalidRequest.code, False)


def of_words(size: int, poisonous: Set[int] = frozenset()) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with a word for each id, some of which it cannot decode."""
    words = {f"{POISON[:-1]}{each}" if each in poisonous else f"w{each}": each for each in range(size)}
    backend = Tokenizer(models.WordLevel(words))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.Replace(Regex("(a+)+$"), "")
    return wrap(backend)


@pytest.mark.parametrize("of_prompt", [False, True])
def test_log_probabilities_of_a_token_without_text_fail_their_request_alone(
    llama: TinyModel, of_prompt: bool
) -> None:
    prompt, size = "w5 w6 w7", len(llama.tokenizer)
    sound = {*replace(llama, tokenizer=of_words(size)).generate_ids(prompt, 12), 5, 6, 7}
    tokenizer = of_words(size, set(range(size)) - sound)
    engine, collected = replace(llama, tokenizer=tokenizer).engine(), Collected()
    sampling = SamplingParams(max_tokens=12, temperature=0, top_logprobs=20)
    engine.submit(Submit("poison", sampling, prompt=prompt, prompt_logprobs=of_prompt))
    engine.submit(greedy("sound", prompt, 12))
    finish(engine, collected)
    assert isinstance(collected.ends["poison"], Failed)
    assert isinstance(collected.ends["sound"], Finished)


def test_panics_as_errors_lets_other_exceptions_pass() -> None:
    for passing in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(passing), panics_as_errors():
            raise passing
