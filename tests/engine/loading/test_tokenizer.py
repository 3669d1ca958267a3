"""Tokenizers that multiply texts are refused; those of real models are not."""

from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers
from transformers import PreTrainedTokenizerFast

from app.core.errors import ModelRefused
from app.engine.loading.tokenizer import refuse_growth
from tests.engine.tiny import wrap

A_THOUSAND = normalizers.Replace("a", "a" * 1000)


def charsmap(longest: int) -> bytes:
    """Returns a character map with an empty trie and one replacement text of the given length."""
    trie = (0).to_bytes(4, "little") * 4
    return len(trie).to_bytes(4, "little") + trie + b"x\0" + b"y" * longest + b"\0"


def with_parts(tokenizer: PreTrainedTokenizerFast, normalizer: Any = None, decoder: Any = None) -> Any:
    """Returns the tokenizer with another normaliser or decoder, whose classes have no typed base."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if normalizer is not None:
        backend.normalizer = normalizer
    if decoder is not None:
        backend.decoder = decoder
    return wrap(backend)


@pytest.mark.parametrize(
    "normalizer",
    [
        A_THOUSAND,
        normalizers.Sequence([A_THOUSAND, A_THOUSAND, A_THOUSAND]),
        normalizers.Sequence([normalizers.NFC(), normalizers.Sequence([A_THOUSAND])]),
        normalizers.Sequence([normalizers.Replace("a", "a" * 9)] * 3),
        normalizers.Replace(Regex(""), "a" * 1000),
        normalizers.Prepend("a" * 1000),
        normalizers.Precompiled(charsmap(1000)),
    ],
)
def test_normaliser_that_multiplies_is_refused(tokenizer: PreTrainedTokenizerFast, normalizer: Any) -> None:
    with pytest.raises(ModelRefused, match="many times longer"):
        refuse_growth(with_parts(tokenizer, normalizer))


def test_decoder_that_multiplies_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    decoder = decoders.Sequence([decoders.Replace("a", "a" * 1000), decoders.Fuse()])
    with pytest.raises(ModelRefused, match="many times longer"):
        refuse_growth(with_parts(tokenizer, decoder=decoder))


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.NFKC(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),  # Llama 2
        normalizers.Sequence(  # XLNet
            [
                normalizers.Replace("``", '"'),
                normalizers.NFKD(),
                normalizers.StripAccents(),
                normalizers.Precompiled(charsmap(18)),
                normalizers.Replace(Regex(" {2,}"), " "),
            ]
        ),
        normalizers.BertNormalizer(),
    ],
)
def test_normalisers_of_real_models_are_served(tokenizer: PreTrainedTokenizerFast, normalizer: Any) -> None:
    refuse_growth(with_parts(tokenizer, normalizer))
