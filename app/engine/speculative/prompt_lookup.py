"""Finds draft tokens in the sequence itself: those that followed an earlier occurrence of its last tokens.

This is prompt look-up decoding: https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Sequence

_NGRAM = 3  # tokens that must have occurred before


class PromptLookup:
    """An index of the n-grams of one sequence. The cost per new token does not grow with the sequence."""

    def __init__(self) -> None:
        self._last_end: dict[tuple[int, ...], int] = {}  # where the last occurrence of an n-gram ended
        self._indexed = 0
        self._match: int | None = None  # where the previous occurrence of the last n-gram ended

    @property
    def has_match(self) -> bool:
        """Whether the last indexed n-gram has occurred before."""
        return self._match is not None

    def index(self, ids: Sequence[int]) -> None:
        """Add the n-grams that are new since the last call. `ids` may only grow between calls."""
        for end in range(max(self._indexed + 1, _NGRAM), len(ids) + 1):
            ngram = tuple(ids[end - _NGRAM : end])
            self._match = self._last_end.get(ngram)
            self._last_end[ngram] = end
        self._indexed = len(ids)

    def continuation(self, ids: Sequence[int], count: int) -> tuple[int, ...]:
        """Returns `count` ids that may follow the indexed `ids`; none if there is no match.

        If the earlier occurrence is too close to the end, its continuation repeats periodically.
        """
        if self._match is None:
            return ()
        period = len(ids) - self._match
        return tuple(ids[self._match + index % period] for index in range(count))
