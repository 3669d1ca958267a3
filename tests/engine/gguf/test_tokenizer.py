"""Tokenizers read from GGUF files cut texts as those do that the vocabularies were made for."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from tokenizers import Tokenizer, models, normalizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import GemmaTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from app.core.errors import ModelCorrupt, ModelUnsupported
from app.engine.gguf.file import GGUFFile, read
from app.engine.gguf.pre_tokenizers import RULES
from app.engine.gguf.tokenizer import build_tokenizer, ending_ids
from tests.engine.gguf.files import tiny_model, write
from tests.engine.gguf.smollm2 import needs_smollm2, smollm2
from tests.engine.tiny import make_tokenizer

TEXTS = (
    "Hello world, the cat sat on the mat.",
    " a space first, and  two spaces   three",
    "12 + 345 = 357; isn't it? WE'RE there",
    "line one\nline two\n\n\tindented\r\n",
    "日本語 and é, naïve, 👍🏽 and \u200b.",
    "",
    " ",
    "def add(a, b):\n    return a + b",
)
SPACE = "▁"
SPECIAL = ["<unk>", "<s>", "</s>"]


def sentencepiece_vocabulary() -> tuple[list[str], list[tuple[str, str]]]:
    """Returns tokens in the order of a vocabulary of sentencepiece, and the merges that made them."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    trainer = trainers.BpeTrainer(vocab_size=200, show_progress=False)
    trained.train_from_iterator([text for text in TEXTS if text.isascii()] * 3, trainer)
    ids = trained.get_vocab()
    pieces = sorted(ids, key=ids.__getitem__)
    letters, merged = [p for p in pieces if len(p) == 1], [p for p in pieces if len(p) > 1]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *letters]
    known = set(tokens)
    merges = [
        (token[:cut], token[cut:])
        for token in merged
        for cut in range(1, len(token))
        if token[:cut] in known and token[cut:] in known
    ]
    return tokens, merges


def sentencepiece_file(architecture: str, *, has_prefix: bool) -> GGUFFile:
    tokens, _ = sentencepiece_vocabulary()
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)]
    return GGUFFile(
        {
            "general.architecture": architecture,
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": list(tokens),
            "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
            "tokenizer.ggml.token_type": list(kinds),
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_space_prefix": has_prefix,
        },
        {},
    )


def plain(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert isinstance(ids, list)
    return ids


def reference(kind: type[PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    tokens, merges = sentencepiece_vocabulary()
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return kind(vocab=vocabulary, merges=merges, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.startswith(" ")])
def test_sentencepiece_vocabulary_cuts_as_llamas_tokenizer(text: str) -> None:
    found = build_tokenizer(sentencepiece_file("llama", has_prefix=True))
    assert plain(found, text) == plain(reference(LlamaTokenizer), text)
    assert found.decode(plain(found, text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_sentencepiece_vocabulary_of_gemma_adds_no_space(text: str) -> None:
    found = build_tokenizer(sentencepiece_file("gemma3", has_prefix=False))
    assert plain(found, text) == plain(reference(GemmaTokenizer), text)
    assert found.decode(plain(found, text)) == text


def test_beginning_of_text_is_added_where_the_file_says_so() -> None:
    file = sentencepiece_file("llama", has_prefix=True)
    assert build_tokenizer(file).encode("a")[0] == 1
    without = GGUFFile({**file.metadata, "tokenizer.ggml.add_bos_token": False}, {})
    assert build_tokenizer(without).encode("a")[0] != 1
    assert ending_ids(file) == [2]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=50, deadline=None)
def test_byte_level_vocabulary_keeps_every_text(text: str) -> None:
    found = build_tokenizer(byte_level_file("gpt-2"))
    assert found.decode(plain(found, text), clean_up_tokenization_spaces=False) == text


def byte_level_file(rule: str) -> GGUFFile:
    ids = make_tokenizer().get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    return GGUFFile(
        {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": rule,
            "tokenizer.ggml.tokens": list(tokens),
        },
        {},
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_cuts_and_joins(rule: str) -> None:
    found = build_tokenizer(byte_level_file(rule))
    for text in TEXTS:
        assert found.decode(plain(found, text), clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    "change", [{"tokenizer.ggml.pre": "unheard-of"}, {"tokenizer.ggml.model": "unheard-of"}]
)
def test_unknown_kind_of_vocabulary_is_refused_by_name(change: dict[str, str]) -> None:
    file = byte_level_file("gpt-2")
    with pytest.raises(ModelUnsupported, match="unheard-of"):
        build_tokenizer(GGUFFile({**file.metadata, **change}, {}))


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer.ggml.tokens": []},
        {"tokenizer.ggml.tokens": ["a", "a"]},
        {"tokenizer.ggml.tokens": ["a" * 5_000]},
        {"tokenizer.ggml.tokens": 7},
        {"tokenizer.ggml.merges": ["a b c"]},
        {"tokenizer.ggml.merges": ["nowhere nothing"]},
        {"tokenizer.ggml.token_type": [1]},
        {"tokenizer.ggml.bos_token_id": 10**6},
    ],
)
def test_vocabulary_that_makes_no_sense_is_corrupt(change: dict[str, list[int | float | bool | str]]) -> None:
    file = byte_level_file("gpt-2")
    with pytest.raises(ModelCorrupt):
        build_tokenizer(GGUFFile({**file.metadata, **change}, {}))


def test_written_tokenizer_is_read_again(tmp_path: Path) -> None:
    own = make_tokenizer()
    found = build_tokenizer(read(write(tmp_path / "tiny.gguf", tiny_model("llama"), "llama", tokenizer=own)))
    for text in (*TEXTS, "<|user|>hi<|end|>"):
        assert plain(found, text) == plain(own, text)
    assert found.chat_template == own.chat_template


@needs_smollm2
def test_smollm2_cuts_digits_one_by_one() -> None:
    file = read(smollm2())
    found = build_tokenizer(file)
    own = Tokenizer.from_str(found.backend_tokenizer.to_str())
    own.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    for text in TEXTS:
        assert plain(found, text) == own.encode(text, add_special_tokens=False).ids
