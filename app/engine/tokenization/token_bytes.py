"""Finds the bytes of each token of a model, and the tokens that begin with or contain given bytes."""

import re
from bisect import bisect_left
from collections.abc import Callable, Set
from functools import cached_property, lru_cache
from itertools import islice

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from app.engine.tokenization.panics import panics_as_errors

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The ids below `size` of one tokenizer. The first search builds an index of the whole vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._tokenizer = tokenizer
        self._size = size
        added = tokenizer.added_tokens_decoder
        self._added = {token_id: token.content.encode() for token_id, token in added.items()}
        self._silent = {token_id for token_id, token in added.items() if token.special}
        self._to_bytes = _decoding(tokenizer)
        self.of = lru_cache(4096)(self._of)

    def _of(self, token_id: int) -> bytes:
        """Returns the bytes of one token. A special token stands for its name."""
        if token_id in self._added:
            return self._added[token_id]
        name = self._tokenizer.convert_ids_to_tokens(token_id)
        if not isinstance(name, str):  # an embedding without a token
            return b""
        if (byte := _BYTE.fullmatch(name)) is not None:
            return bytes.fromhex(byte[1])
        return self._to_bytes(token_id, name)

    @property
    def silent_ids(self) -> Set[int]:
        """The special tokens, which add no text to a reply."""
        return self._silent

    def all(self) -> list[bytes]:
        """Returns the bytes of every id."""
        return [self._of(token_id) for token_id in range(self._size)]

    def text_of(self, token_id: int) -> bytes:
        """Returns the bytes that a token adds to a reply. A special token adds none."""
        return b"" if token_id in self._silent else self.of(token_id)

    def starting_with(self, prefix: bytes) -> list[int]:
        """Returns the ids whose text begins with these bytes. Special tokens have no text."""
        begin = bisect_left(self._sorted, (prefix, -1))
        found = islice(self._sorted, begin, None)
        ids = []
        for text, token_id in found:
            if not text.startswith(prefix):
                break
            ids.append(token_id)
        return ids

    def made_of(self, text: bytes) -> list[int]:
        """Returns the ids whose text is exactly these bytes."""
        begin = bisect_left(self._sorted, (text, -1))
        end = bisect_left(self._sorted, (text, self._size), begin)
        return [token_id for _, token_id in self._sorted[begin:end]]

    def containing(self, text: bytes) -> list[int]:
        """Returns the ids whose text contains these bytes."""
        return [token_id for token, token_id in self._sorted if text in token]

    @cached_property
    def _sorted(self) -> list[tuple[bytes, int]]:
        known = min(self._size, len(self._tokenizer))
        return sorted(
            (self._of(token_id), token_id) for token_id in range(known) if token_id not in self._silent
        )


def _decoding(tokenizer: PreTrainedTokenizerBase) -> Callable[[int, str], bytes]:
    """Returns the function from a token's id and name to its bytes, as the tokenizer's decoder does it."""
    decoder = repr(tokenizer.backend_tokenizer.decoder) if tokenizer.is_fast else ""
    if "ByteLevel" in decoder:
        table = {character: byte for byte, character in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
        return lambda token_id, name: bytes(byte for c in name for byte in _byte_level(c, table))
    if "\u2581" in decoder:
        return lambda token_id, name: name.replace("\u2581", " ").encode()
    return lambda token_id, name: _decode(tokenizer, token_id)


def _byte_level(character: str, table: dict[str, int]) -> bytes:
    return bytes((table[character],)) if character in table else character.encode()


def _decode(tokenizer: PreTrainedTokenizerBase, token_id: int) -> bytes:
    with panics_as_errors():
        return str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False)).encode()
