"""Refuses a tokenizer that makes a text many times longer, which could fill the memory with one request."""

import base64
import json
import math
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.core.errors import ModelRefused

_MOST = 64  # a real one makes of one character 18 at most, a ligature of Arabic
_LENGTH_BYTES = 4  # of the number in front of a precompiled normaliser


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
    """How many times longer a text may become."""
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
    """Of sentencepiece's map of characters: a trie, then the texts, each with a null byte behind it."""
    trie_bytes = int.from_bytes(charsmap[:_LENGTH_BYTES], "little")
    texts = charsmap[_LENGTH_BYTES + trie_bytes :].split(b"\0")
    return max(1, *(len(text.decode(errors="replace")) for text in texts))
