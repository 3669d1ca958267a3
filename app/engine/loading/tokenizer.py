"""Loads a folder's tokenizer, and refuses one with which a short request could fill the memory."""

import base64
import json
import math
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.core.errors import ModelCorrupt, ModelRefused, ModelUnavailable, ModelUnsupported
from app.core.model_folder import PIECES, TOKENIZER
from app.engine.loading.folder_check import AGAIN, library_errors_as
from app.engine.loading.limits.tokenizer_check import MOST_TOKENS, refuse_hostile_tokenizer, too_many_tokens
from app.engine.tokenization.panics import panics_as_errors

_MOST = 64  # real tokenizers turn one character into 18 at most, for an Arabic ligature
_PIECE_READERS = ("sentencepiece", "tiktoken")  # which of them depends on the file, whatever its name
_LENGTH_BYTES = 4  # size of the number in front of a precompiled normaliser


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Returns the folder's tokenizer.

    Raises ModelUnavailable if it cannot be read, is too large, takes too long, or might make texts longer.
    """
    refuse_hostile_tokenizer(folder)
    with library_errors_as(partial(_tokenizer_error, folder)), panics_as_errors():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    if len(tokenizer) > MOST_TOKENS:  # of a format that is not counted beforehand
        raise too_many_tokens()
    refuse_growth(tokenizer)
    return tokenizer


def _tokenizer_error(folder: Path, error: Exception) -> ModelUnavailable:
    pieces = next((name for name in PIECES if (folder / name).is_file()), None)
    missing = [package for package in _PIECE_READERS if find_spec(package) is None]
    if (folder / TOKENIZER).is_file() or pieces is None or not missing:
        return ModelCorrupt(f"the tokenizer cannot be loaded: {error}", hint=AGAIN)
    return ModelUnsupported(
        f"the model has no {TOKENIZER}, only {pieces}, which the installed packages cannot read",
        hint=f"Install it: pip install {' or '.join(missing)}. Or choose a folder with {TOKENIZER}.",
    )


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
