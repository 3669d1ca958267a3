"""Direct calls of the tokenizers library give what transformers gives, also if a class has its own ways."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.direct_calls import decoder, encoder
from tests.engine.tiny import make_tokenizer

TEXTS = ["", "the cat", " 日本語 é 👍", "<|end|>the\n<|user|>"]


class Shouting(PreTrainedTokenizerFast):
    def _decode(self, *ids: Any, **options: Any) -> str:  # Any: those of transformers
        return str(super()._decode(*ids, **options)).upper()


@pytest.mark.parametrize("kind", [PreTrainedTokenizerFast, Shouting])
def test_texts_and_ids_are_those_of_transformers(kind: type[PreTrainedTokenizerFast]) -> None:
    usual = make_tokenizer()
    tokenizer = kind(tokenizer_object=usual.backend_tokenizer, bos_token="<|bos|>", eos_token="<|end|>")
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding()
    encode, decode = encoder(tokenizer, BoundedCalls()), decoder(tokenizer)
    expected = usual(TEXTS, add_special_tokens=False)["input_ids"]
    assert encode(TEXTS) == expected
    assert encoder(tokenizer, BoundedCalls(), adds_special_tokens=True)(TEXTS) == usual(TEXTS)["input_ids"]
    for ids in expected:
        assert decode(ids) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
