"""Decides which conversations a search finds. Every store and every full-text index follows it.

A word is a run of letters, digits and underscores, in lower case; `ß` counts as `ss`, and full-width letters
count as plain ones. Each Chinese character and each Japanese syllable is a word of its own.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from app.core.errors import InvalidRequest
from app.models.conversation import Message

MAX_WORDS = 16  # of a query
_MAX_WORD = 100  # characters of a word that count
_MAX_INDEX_BYTES = 900_000  # of the different words of one text that count; PostgreSQL takes 1 MiB of them
_BYTES_PER_WORD = 9  # that an index adds to a word
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")


def search_words(query: str) -> tuple[str, ...]:
    """Returns the words of a query.

    Raises:
        InvalidRequest: it has no word, or too many.
    """
    words = tuple(_words(query))
    if not words:
        raise InvalidRequest("query: it has no word to look for.")
    if len(words) > MAX_WORDS:
        raise InvalidRequest(f"query: it has more than {MAX_WORDS} words.")
    return words


def index_words(text: str) -> tuple[str, ...]:
    """Returns the different words of a text; of a huge text the first, up to what an index holds."""
    found, rest = list[str](), _MAX_INDEX_BYTES
    for word in _words(text):
        rest -= len(word.encode()) + _BYTES_PER_WORD
        if rest < 0:
            break
        found.append(word)
    return tuple(found)


def matches(title: str | None, messages: Iterable[Message], words: Sequence[str]) -> bool:
    """Returns whether the title or one message has all the words, each at the beginning of a word."""
    texts = (title or "", *(message.content for message in messages))
    starts = [f" {word}" for word in words]
    return any(all(start in joined for start in starts) for joined in map(_joined, texts))


def _joined(text: str) -> str:
    return " " + " ".join(index_words(text))


def _words(text: str) -> dict[str, None]:
    """The different words of a text, in their order."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return dict.fromkeys(word[:_MAX_WORD] for word in _WORD.findall(folded))
