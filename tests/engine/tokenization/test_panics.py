"""A panic inside the tokenizers library fails one request, and no other."""

from dataclasses import replace

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.core.errors import InvalidRequest
from app.engine.ipc.messages import Failed, Finished
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


def test_panics_as_errors_lets_other_exceptions_pass() -> None:
    for passing in (KeyboardInterrupt, SystemExit, ValueError):
        with pytest.raises(passing), panics_as_errors():
            raise passing
