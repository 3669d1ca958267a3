"""Turns the tokens of a text into the lists of a text completion's log-probabilities."""

import codecs
from collections.abc import Sequence

from app.api.openai.wire import SparseModel
from app.models.schemas import LogprobEntry


class TextLogprobs(SparseModel):
    """The tokens of a text in lists of equal length.

    `text_offset` counts the characters before each token. A token within a character has that one's place.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TokenPlaces:
    """Finds where in a text its tokens begin, one after the other, also if a character has several tokens."""

    def __init__(self, begin: int = 0) -> None:
        """The first token begins after `begin` characters."""
        self._characters = begin
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def next(self, entries: Sequence[LogprobEntry]) -> list[int]:
        """Returns the number of characters before each of the next tokens."""
        places = []
        for entry in entries:
            places.append(self._characters)
            self._characters += len(self._decoder.decode(bytes(entry.bytes)))
        return places


def places_in_prompt(entries: Sequence[LogprobEntry], length: int) -> list[int]:
    """Returns the places of the tokens of a prompt that has `length` characters.

    Tokens that a tokenizer adds before a text have no characters in it, so the places count from its end.
    """
    size = len(b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace"))
    return [max(0, place) for place in TokenPlaces(length - size).next(entries)]


def text_logprobs(entries: Sequence[LogprobEntry], places: list[int]) -> TextLogprobs:
    return TextLogprobs(
        tokens=[entry.token for entry in entries],
        token_logprobs=[entry.logprob for entry in entries],
        top_logprobs=[_top(entry) for entry in entries],
        text_offset=places,
    )


def _top(entry: LogprobEntry) -> dict[str, float] | None:
    """Returns the most likely tokens and the one that came. Of several with one text, the first counts."""
    if entry.logprob is None:
        return None
    top: dict[str, float] = {}
    for other in entry.top_logprobs:
        top.setdefault(other.token, other.logprob)
    top.setdefault(entry.token, entry.logprob)
    return top
