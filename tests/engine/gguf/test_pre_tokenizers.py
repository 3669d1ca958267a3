"""The rules by which vocabularies cut a text are those of the models that have them."""

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

from app.engine.gguf.pre_tokenizers import RULES

_TEXT = "It's 2026, नमस्ते e\u0301té!\r\n  don'T 12345  x"


def _cut(patterns: tuple[str, ...]) -> list[str]:
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return [part for part, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(_TEXT)]


def test_qwen35_cuts_as_its_own_tokenizer() -> None:
    assert _cut(RULES["qwen35"].patterns) == _cut((PRETOKENIZE_REGEX,)) != _cut(RULES["qwen2"].patterns)
    assert RULES["qwen35"].is_normalised


@pytest.mark.parametrize("name", ["lfm2", "falcon-h1"])
def test_vocabularies_that_cut_like_llama_3(name: str) -> None:
    assert RULES[name] == RULES["llama-bpe"]
