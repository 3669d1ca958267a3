"""Deltas concatenate to the decoding of all ids, and nothing of a stop string is ever shown."""

import random
from collections.abc import Callable
from functools import partial

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from app.engine.replies.detokenizer import Detokenizer, ReplyText
from app.engine.replies.stop_strings import StopStrings
from tests.engine.tiny import decode as decode_text, token_id, wrap

Decode = Callable[[list[int]], str]


@pytest.fixture
def decode(tokenizer: PreTrainedTokenizerFast) -> Decode:
    return partial(decode_text, tokenizer, skips_special=True)


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    """Like SentencePiece's: words with a leading mark, and bytes for everything else."""
    words = ["<unk>", "▁", "▁the", "▁cat", "s", "é", "日"]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return wrap(tokenizer)


def by_bytes(tokenizer: PreTrainedTokenizerFast) -> Detokenizer:
    """A detokenizer for the tokenizer with byte fallback."""
    first_byte = token_id(tokenizer, "<0x00>")
    byte_ids = frozenset(range(first_byte, first_byte + 256))
    return Detokenizer(partial(decode_text, tokenizer), byte_ids=byte_ids)


def stream(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def byte_stream(draw: random.Random, first_byte: int, plain: list[int]) -> list[int]:
    """Ids of whole characters, of characters cut short, of single bytes and of words."""
    ids: list[int] = []
    while len(ids) < 200:
        raw = draw.choice(["é", "日本", "👍🏽", "a", "\ufffd"]).encode()[: draw.randint(1, 8)]
        ids += [first_byte + byte for byte in raw]
        ids += draw.choices(plain, k=draw.randint(0, 3))
        if draw.random() < 0.3:
            ids.append(first_byte + draw.randrange(256))
    return ids


@pytest.mark.parametrize("seed", range(20))
def test_detokenizer_random_ids_concatenate_to_decode(
    tokenizer: PreTrainedTokenizerFast, decode: Decode, seed: int
) -> None:
    draw = random.Random(seed)
    ids = draw.choices(range(len(tokenizer)), k=300)
    silent = frozenset(tokenizer.all_special_ids)
    assert "".join(stream(Detokenizer(decode, silent_ids=silent), ids)) == decode(ids)


@pytest.mark.parametrize("seed", range(20))
def test_detokenizer_broken_characters_concatenate_to_decode(
    tokenizer: PreTrainedTokenizerFast, decode: Decode, seed: int
) -> None:
    bytes_of = {tokenizer.convert_tokens_to_ids(symbol) for symbol in "ĠéÃ©ðŁĳį"} - {None}
    draw = random.Random(seed)
    ids = [
        token for _ in range(80) for token in draw.choice([sorted(bytes_of), tokenizer("é 日本👍").input_ids])
    ]
    assert "".join(stream(Detokenizer(decode), ids)) == decode(ids)


@pytest.mark.parametrize("seed", range(20))
def test_detokenizer_byte_fallback_concatenates_to_decode(
    byte_fallback: PreTrainedTokenizerFast, seed: int
) -> None:
    first_byte = token_id(byte_fallback, "<0x00>")
    ids = byte_stream(random.Random(seed), first_byte, plain=[1, 2, 3, 4, 5, 6])
    assert "".join(stream(by_bytes(byte_fallback), ids)) == decode_text(byte_fallback, ids)


@pytest.fixture(scope="module")
def metaspace() -> PreTrainedTokenizerFast:
    """Like Llama 2's: a word's leading space is part of it, and of the first word it is not shown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(["The capital of France is Paris"] * 3, trainer)
    return wrap(tokenizer, bos_token="<s>")


@pytest.mark.parametrize("prompt", ["The", "The capital", "The capital of " * 20 + "The capital"])
def test_detokenizer_text_joins_what_it_follows(metaspace: PreTrainedTokenizerFast, prompt: str) -> None:
    whole = prompt + " of France is Paris"
    ids, begun = metaspace(whole).input_ids, metaspace(prompt).input_ids
    detokenizer = Detokenizer(partial(decode_text, metaspace), silent_ids=frozenset([1]))
    detokenizer.follow([1, *begun])
    assert prompt + "".join(stream(detokenizer, ids[len(begun) :])) == whole


@pytest.mark.parametrize("characters", [1, 3, 50])
def test_detokenizer_follows_bytes_in_whole_runs(
    byte_fallback: PreTrainedTokenizerFast, characters: int
) -> None:
    first_byte = token_id(byte_fallback, "<0x00>")
    raw = ("日" * characters).encode()
    detokenizer = by_bytes(byte_fallback)
    detokenizer.follow([2, *(first_byte + byte for byte in raw)])
    reply = [*(first_byte + byte for byte in "é".encode()), 3]
    assert "".join(stream(detokenizer, reply)) == "é cat"


@pytest.mark.parametrize("kept", range(1, 5))
def test_detokenizer_cut_leaves_out_a_character_that_has_only_begun(
    tokenizer: PreTrainedTokenizerFast, byte_fallback: PreTrainedTokenizerFast, decode: Decode, kept: int
) -> None:
    whole = kept == 4
    raw = "é👍".encode()[: 2 + kept]
    first_byte = token_id(byte_fallback, "<0x00>")
    detokenizer = by_bytes(byte_fallback)
    shown = "".join(detokenizer.push(token) for token in [2, *(first_byte + byte for byte in raw)])
    assert shown + detokenizer.cut() == ("the" + "é" + "👍" * whole)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("é👍")
    symbols = "".join(word for word, _ in words)[: 2 + kept]
    by_level = Detokenizer(decode)
    shown = "".join(by_level.push(token) for token in (token_id(tokenizer, symbol) for symbol in symbols))
    assert shown + by_level.cut() == "é" + "👍" * whole


def test_detokenizer_cut_keeps_wrong_bytes_before_the_end(
    tokenizer: PreTrainedTokenizerFast, decode: Decode
) -> None:
    ids = [token_id(tokenizer, symbol) for symbol in "aðbð"]
    detokenizer = Detokenizer(decode)
    assert "".join(detokenizer.push(token) for token in ids) + detokenizer.cut() == "a\ufffdb"


def test_detokenizer_shows_no_half_character(tokenizer: PreTrainedTokenizerFast, decode: Decode) -> None:
    pieces = stream(Detokenizer(decode), tokenizer("é 👍 日本語").input_ids)
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == "é 👍 日本語"


def test_detokenizer_decodes_short_windows_only(tokenizer: PreTrainedTokenizerFast, decode: Decode) -> None:
    lengths: list[int] = []

    def measured(ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode(ids)

    stream(Detokenizer(measured), tokenizer("the cat sat on the mat " * 50).input_ids)
    assert max(lengths) <= 24


def test_reply_text_stops_inside_a_token(tokenizer: PreTrainedTokenizerFast, decode: Decode) -> None:
    reply = ReplyText(Detokenizer(decode), StopStrings(["at on"]))
    text = "".join(reply.push(token) for token in tokenizer("the cat sat on the mat").input_ids)
    assert text == "the cat s"
    assert reply.is_stopped
    assert reply.flush() == ""
