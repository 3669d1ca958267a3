"""Owns the guesses of one request: what text that it has seen before says next, and how many to make.

Prompt look-up (https://github.com/apoorvumang/prompt-lookup-decoding): where the last tokens occurred
earlier, what followed them there is guessed to follow again. A draft model guesses in draft.py; whether it
is worth its price is judged here. Checking a guess is the engine's.
"""

from collections.abc import Sequence

_NGRAM = 3  # tokens that must have occurred before
_PRIOR = 4.0  # tested tokens that a request's luck begins with, of the usual share
_USUAL_LOOK_UP, _USUAL_DRAFT = 0.5, 0.75  # of guesses that are right
_MEMORY = 0.9  # weight of all that was learned before, with each tested token
_SETTLED = 16  # tested tokens after which luck that holds is more than a beginning
_REST = 64  # tokens without a guess, doubled each time that guessing did not pay again
_HISTORY_PER_TOKEN = 32  # ids that a draft model reads at about what one of its right guesses gains
_HISTORY_FREE = 64


class AcceptanceRate:
    """How often one kind of guess was right for one request, and so whether the next is worth its price."""

    def __init__(self, usual: float) -> None:
        self._usual = usual
        self._right = self._tested = 0.0
        self._rest = _REST
        self._resumes_at = 0

    def count(self, most: int, price: float, length: int) -> int:
        """How many tokens to guess. `price` of each is in steps; `length` ids are known now."""
        if most <= 0 or length < self._resumes_at:
            return 0
        count = best_count(self._chance, price, most)
        if count == 0:
            self._resumes_at = length + self._rest
            self._rest *= 2
            self._right = self._tested = 0.0
        elif self._tested >= _SETTLED:
            self._rest = _REST
        return count

    def learn(self, guessed: int, right: int) -> None:
        """How many ids of the last guess were right. Those behind the first wrong one tell nothing."""
        tested = min(right + 1, guessed)
        self._right = self._right * _MEMORY**tested + right
        self._tested = self._tested * _MEMORY**tested + tested

    @property
    def _chance(self) -> float:
        return (self._right + self._usual * _PRIOR) / (self._tested + _PRIOR)


def best_count(chance: float, price: float, most: int) -> int:
    """The number of guesses with the most tokens for the time; 0 where a step without is the best.

    A step of k guesses takes 1 + k · price and is expected to give 1 + chance + … + chance^k tokens
    (https://arxiv.org/abs/2211.17192, equation 1).
    """
    best, best_rate, tokens = 0, 1.0, 1.0
    for count in range(1, most + 1):
        tokens += chance**count
        rate = tokens / (1 + count * price)
        if rate > best_rate:
            best, best_rate = count, rate
    return best


class PromptLookup:
    """One request's guesses. Each token costs the same, however long the history is."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], int] = {}  # an n-gram, and where its last occurrence ended
        self._indexed = 0
        self._found: int | None = None  # where the last n-gram had ended before
        self._look_up, self._draft = AcceptanceRate(_USUAL_LOOK_UP), AcceptanceRate(_USUAL_DRAFT)
        self._last = self._look_up

    def guess(self, ids: Sequence[int], most: int, price: float) -> tuple[int, ...]:
        """Up to `most` ids that may follow `ids`, which only grows from call to call; none if in doubt."""
        self._index(ids)
        if self._found is None:
            return ()
        self._last, period = self._look_up, len(ids) - self._found
        count = self._look_up.count(most, price, len(ids))
        return tuple(ids[self._found + index % period] for index in range(count))

    def drafts(self, length: int, said: int, unread: int, most: int, price: float) -> int:
        """How many of `most` tokens a draft model shall guess, which has not read the last `unread` ids.

        A reply of `said` tokens is expected to become about twice as long.
        """
        if unread > said * _HISTORY_PER_TOKEN + _HISTORY_FREE:
            return 0
        self._last = self._draft
        return self._draft.count(most, price, length)

    def learn(self, guessed: int, right: int) -> None:
        """How many ids of the last guess were right."""
        if guessed > 0:
            self._last.learn(guessed, right)

    def _index(self, ids: Sequence[int]) -> None:
        """Notes every n-gram that is new, and where the last one had ended before."""
        for end in range(max(self._indexed + 1, _NGRAM), len(ids) + 1):
            key = tuple(ids[end - _NGRAM : end])
            self._found = self._seen.get(key)
            self._seen[key] = end
        self._indexed = len(ids)
