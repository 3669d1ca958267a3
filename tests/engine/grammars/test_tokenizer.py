"""The tokenizer for grammars has tokens for every text that its own tokens can make."""

from tokenizers import Regex, pre_tokenizers

from app.engine.grammars.tokenizer import grammar_tokenizer
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.token_bytes import TokenBytes
from tests.engine.tiny import make_tokenizer, wrap

HARD = "a" * 40 + "b"  # for the pattern below, which tries every way to cut the letters before it gives up


def test_text_that_the_tokenizer_cannot_handle_has_tokens() -> None:
    tokenizer = make_tokenizer()
    tokens = TokenBytes(tokenizer, len(tokenizer))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a|a|aa)+$"), "isolated")
    described = grammar_tokenizer(wrap(tokenizer.backend_tokenizer), tokens, {1}, {0, 1}, BoundedCalls())
    assert b"".join(map(tokens.of, described.tokenize_str(HARD))).decode() == HARD
