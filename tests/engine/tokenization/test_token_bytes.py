"""The bytes of tokens, for each kind of tokenizer."""

from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from app.engine.tokenization.token_bytes import TokenBytes
from tests.engine.tiny import make_tokenizer, wrap


def test_token_bytes_of_a_byte_level_tokenizer_concatenate_to_the_text() -> None:
    tokenizer = make_tokenizer()
    tokens = TokenBytes(tokenizer, len(tokenizer))
    text = "the cat, 日本語 é 👍"
    assert b"".join(map(tokens.of, tokenizer(text).input_ids)) == text.encode()
    assert tokens.of(1) == b"<|end|>"
    assert tokens.text_of(1) == b""


def sentencepiece_like() -> PreTrainedTokenizerFast:
    names = {"<unk>": 0, "\u2581the": 1, "<0xE6>": 2, "cat": 3}
    tokenizer = Tokenizer(models.BPE(names, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return wrap(tokenizer, unk_token="<unk>")


def test_token_bytes_knows_byte_tokens_and_spaces_of_sentencepiece() -> None:
    tokens = TokenBytes(sentencepiece_like(), 10)
    assert [tokens.of(token_id) for token_id in range(5)] == [b"<unk>", b" the", b"\xe6", b"cat", b""]


def test_token_bytes_finds_tokens_by_their_text() -> None:
    tokenizer = make_tokenizer()
    tokens = TokenBytes(tokenizer, len(tokenizer))
    for found, holds in (
        (tokens.starting_with(b"th"), lambda text: text.startswith(b"th")),
        (tokens.containing(b"at"), lambda text: b"at" in text),
    ):
        assert found
        every = range(len(tokenizer))
        assert set(found) == {token_id for token_id in every if holds(tokens.text_of(token_id))}
