"""Describes a model's tokenizer to llguidance: the bytes of its tokens, and how it cuts text."""

import re
from collections.abc import Sequence, Set

from llguidance import LLTokenizer, TokenizerWrapper
from transformers import PreTrainedTokenizerBase

from app.core.errors import InvalidRequest
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.panics import panics_as_errors
from app.engine.tokenization.token_bytes import TokenBytes


def grammar_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    tokens: TokenBytes,
    stop_ids: Set[int],
    special_ids: Set[int],
    calls: BoundedCalls,
) -> LLTokenizer:
    """Returns the tokenizer for grammars, in which the `special_ids` have no text.

    llguidance's own reader of tokenizer.json takes three times as long, holding the interpreter's lock, and
    reads the names of special tokens inside a text as these tokens.

    Raises InvalidRequest if llguidance panics, as it does at a token of more than a thousand bytes.
    """
    wrapper = TokenizerWrapper(_Described(tokenizer, tokens, stop_ids, special_ids, calls))
    with panics_as_errors():
        described = LLTokenizer(wrapper, n_vocab=len(wrapper.tokens), eos_token=sorted(stop_ids))
    wrapper.tokens = []  # llguidance has its own copy, and keeps the wrapper for its call
    return described


_LONGEST = 32  # bytes of a token


class _Described:
    """The attributes and the call that TokenizerWrapper needs."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tokens: TokenBytes,
        stop_ids: Set[int],
        special_ids: Set[int],
        calls: BoundedCalls,
    ) -> None:
        self.eos_token_id = min(stop_ids)
        self.bos_token_id = None
        self.special_token_ids = sorted(special_ids)
        self._special_ids = special_ids
        self._tokens = tokens
        self._backend = tokenizer.backend_tokenizer
        self._calls = calls
        # The tokenizers library makes special tokens of their names, so no part of a text may hold one.
        names = [tokens.of(token_id).decode() for token_id in special_ids]
        cuts = [f"(?<={re.escape(name[:1])})(?={re.escape(name[1:])})" for name in names if len(name) > 1]
        self._cut = re.compile("|".join(cuts) or r"(?!)")

    @property
    def tokens(self) -> list[bytes]:
        """The bytes of every id, made again at each reading."""
        return self._tokens.all()

    def __call__(self, text: bytes) -> Sequence[int]:
        """Returns tokens of a text that the grammar forces, whose bytes are exactly these."""
        try:
            ids = self._encode(self._cut.split(text.decode()))
        except (
            UnicodeDecodeError,
            InvalidRequest,
        ):  # a part of a character, or a text for which it takes long
            return self._longest(text)  # an error would be a panic in llguidance
        return ids if b"".join(map(self._tokens.of, ids)) == text else self._longest(text)

    def _encode(self, texts: list[str]) -> list[int]:
        """Returns the ids of the texts, one after the other.

        In a batch: for a single text the library keeps the interpreter lock, and nothing could end the wait.
        """
        with panics_as_errors():
            encodings = self._calls.call(
                lambda: self._backend.encode_batch_fast(texts, add_special_tokens=False), sum(map(len, texts))
            )
        return [token_id for each in encodings for token_id in each.ids]

    def _longest(self, text: bytes) -> list[int]:
        """Returns the longest token with which the text begins, then that of the rest, and so on."""
        ids: list[int] = []
        while text:
            made = (self._made_of(text[:length]) for length in range(min(len(text), _LONGEST), 0, -1))
            token_id = next((each for each in made if each is not None), None)
            if token_id is None:
                return []
            ids.append(token_id)
            text = text[len(self._tokens.of(token_id)) :]
        return ids

    def _made_of(self, text: bytes) -> int | None:
        ids = self._tokens.made_of(text)
        return next((token_id for token_id in ids if token_id not in self._special_ids), None)
