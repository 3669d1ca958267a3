"""Makes messages of a given number of tokens for a model's tokenizer."""

import random
import re
from pathlib import Path

from transformers import AutoTokenizer

_WORD = re.compile("[\u0120\u2581][a-z]{3,}")  # a blank, as byte-level and SentencePiece tokenizers write it


class PromptText:
    """Text of words that are one token each with the blank before them, in random order."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        self._words = sorted(word[1:] for word in tokenizer.get_vocab() if _WORD.fullmatch(word))
        self._random = random.Random(seed)

    def message(self, tokens: int) -> str:
        """Returns a message of about so many tokens: the first word may take one or two more."""
        return " ".join(self._random.choice(self._words) for _ in range(max(tokens, 1)))
