"""Decides which conversations a search finds, in the same way as the full-text indexes of the databases."""

import re
from collections.abc import Iterable, Sequence

from app.core.errors import InvalidRequest
from app.models.conversation import Message

_WORD = re.compile(r"\w+")
MAX_WORDS = 16


def search_words(query: str) -> tuple[str, ...]:
    """Returns the words of a query, in lower case.

    Raises:
        InvalidRequest: it has no word, or too many.
    """
    words = tuple(dict.fromkeys(_WORD.findall(query.lower())))
    if not words:
        raise InvalidRequest("query: it has no word to look for.")
    if len(words) > MAX_WORDS:
        raise InvalidRequest(f"query: it has more than {MAX_WORDS} words.")
    return words


def matches(title: str | None, messages: Iterable[Message], words: Sequence[str]) -> bool:
    """Returns whether the title or one message has all the words, each at the beginning of a word."""
    patterns = [re.compile(rf"\b{word}") for word in words]
    texts = (title or "", *(message.content for message in messages))
    return any(all(pattern.search(text) for pattern in patterns) for text in map(str.lower, texts))
