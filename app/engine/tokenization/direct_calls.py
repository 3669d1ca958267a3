"""Calls the tokenizers library without transformers' wrappers, which take as long as decoding itself."""

from collections.abc import Callable

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from app.engine.replies.detokenizer import Decode
from app.engine.tokenization.bounded_calls import BoundedCalls
from app.engine.tokenization.panics import panics_as_errors

EncodeTexts = Callable[[list[str]], list[list[int]]]

_WRAPPERS = ("__call__", "_encode_plus", "decode", "_decode")  # a class with its own may change texts


def encoder(
    tokenizer: PreTrainedTokenizerBase, calls: BoundedCalls, *, adds_special_tokens: bool = False
) -> EncodeTexts:
    """Returns a function from texts to their ids, within the limits of `calls`.

    It raises InvalidRequest for a text that the tokenizer cannot handle, or not in time.
    """
    encode = _unbounded_encoder(tokenizer, adds_special_tokens=adds_special_tokens)

    def encode_in_time(texts: list[str]) -> list[list[int]]:
        return calls.call(lambda: encode(texts), sum(map(len, texts)))

    return encode_in_time


def _unbounded_encoder(tokenizer: PreTrainedTokenizerBase, *, adds_special_tokens: bool) -> EncodeTexts:
    if _is_wrapped_plainly(tokenizer):
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()

        def encode(texts: list[str]) -> list[list[int]]:
            with panics_as_errors():
                encodings = backend.encode_batch_fast(texts, add_special_tokens=adds_special_tokens)
                return [each.ids for each in encodings]

        return encode

    def encode_wrapped(texts: list[str]) -> list[list[int]]:
        with panics_as_errors():
            ids: list[list[int]] = tokenizer(texts, add_special_tokens=adds_special_tokens)["input_ids"]
            return ids

    return encode_wrapped


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    """Returns a function from ids to their text, special tokens included. It raises InvalidRequest, too."""
    if _is_wrapped_plainly(tokenizer):
        backend = tokenizer.backend_tokenizer

        def decode(ids: list[int]) -> str:
            with panics_as_errors():
                return str(backend.decode(ids, skip_special_tokens=False))

        return decode

    def decode_wrapped(ids: list[int]) -> str:
        with panics_as_errors():
            return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return decode_wrapped


def _is_wrapped_plainly(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether transformers would only pass the calls on to the tokenizers library."""
    of_class, usual = type(tokenizer), PreTrainedTokenizerFast
    if not tokenizer.is_fast or getattr(tokenizer, "split_special_tokens", False):
        return False
    return all(getattr(of_class, name) is getattr(usual, name) for name in _WRAPPERS)
