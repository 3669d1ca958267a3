"""Refuses a tokenizer that makes texts many times longer, because one request could then fill the memory."""

import base64
import json
import math
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.core.errors import ModelRefused

_MOST = 64  # real tokenizers turn one character into 18 at most, for an Arabic ligature
_LENGTH_BYTES = 4  # size of the number in front of a precompiled normaliser


def refuse_growth(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelRefused if normalising or decoding may make a text more than `_MOST` times longer."""
    if not tokenizer.is_fast:
        return
    backend = tokenizer.backend_tokenizer
    for part in (backend.normalizer, backend.decoder):
        if part is not None and _growth(json.loads(part.__getstate__())) > _MOST:
            raise ModelRefused(
                "the tokenizer makes texts many times longer, so one request could fill the memory",
                hint="Choose a model of another author.",
            )


def _growth(part: dict[str, Any]) -> float:  # any JSON
    """Returns how many times longer a text may become."""
    match part:
        case {"type": "Sequence"}:
            return math.prod(map(_growth, part.get("normalizers") or part.get("decoders") or ()))
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return max(1.0, len(content) / max(1, len(pattern)))
        case {"type": "Replace", "content": str(content)} if len(content) > 1:
            return len(content) + 1  # a regular expression may match between any two characters
        case {"type": "Prepend", "prepend": str(text)}:
            return len(text) + 1
        case {"type": "Precompiled", "precompiled_charsmap": str(charsmap)}:
            return _longest_replacement(base64.b64decode(charsmap))
    return 1.0


def _longest_replacement(charsmap: bytes) -> int:
    """Returns the length of the longest text in sentencepiece's map of characters.

    The map is a trie, followed by the texts, each with a null byte behind it.
    """
    trie_bytes = int.from_bytes(charsmap[:_LENGTH_BYTES], "little")
    texts = charsmap[_LENGTH_BYTES + trie_bytes :].split(b"\0")
    return max(1, *(len(text.decode(errors="replace")) for text in texts))
