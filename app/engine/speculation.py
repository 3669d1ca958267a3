"""Owns guesses of what a reply says next: a continuation of text that the request has seen before.

Prompt look-up (https://github.com/apoorvumang/prompt-lookup-decoding): where the last tokens occurred
earlier, what followed them there is guessed to follow again. Checking a guess is the engine's.
"""

from collections.abc import Sequence

_NGRAM = 3  # tokens that must have occurred before
_TRIAL = 16  # guessed tokens after which a request's luck is judged
_WORTH = 0.25  # share of right guesses below which guessing rests
_REST = 64  # tokens without a guess, doubled each time that guessing did not pay again


class Guesser:
    """One request's guesses. Each token costs the same, however long the history is."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}  # an n-gram, and where its last occurrence ended
        self._indexed = 0
        self._found: int | None = None  # where the last n-gram had ended before
        self._guessed = 0
        self._right = 0
        self._rest = _REST
        self._resumes_at = 0

    def guess(self, ids: Sequence[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` ids that may follow `ids`, which only grows from call to call; none if in doubt."""
        self._index(ids)
        if self._found is None or len(ids) < self._resumes_at:
            return ()
        period = len(ids) - self._found
        return tuple(ids[self._found + index % period] for index in range(limit))

    def learn(self, guessed: int, right: int, length: int) -> None:
        """How many ids of the last guess were right; `length` ids are known now."""
        self._guessed += guessed
        self._right += right
        if self._guessed < _TRIAL:
            return
        if self._right < _WORTH * self._guessed:
            self._resumes_at = length + self._rest
            self._rest *= 2
        else:
            self._rest = _REST
        self._guessed = self._right = 0

    def _index(self, ids: Sequence[int]) -> None:
        """Notes every n-gram that is new, and where the last one had ended before."""
        for end in range(max(self._indexed + 1, _NGRAM), len(ids) + 1):
            key = tuple(ids[end - _NGRAM : end])
            self._found = self._seen.get(key)
            self._seen[key] = end
        self._indexed = len(ids)
