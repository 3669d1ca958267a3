"""The memory that one sequence's cache takes, as a function of its length."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SequenceBytes:
    """Attention stores keys and values of every token; state space layers have states of a fixed size."""

    per_token: int
    fixed: int = 0

    def of(self, tokens: int) -> int:
        """Returns the bytes of a sequence with so many tokens."""
        return self.fixed + self.per_token * tokens

    def longest(self, budget: int, limit: int) -> int:
        """Returns how many tokens, at most `limit`, a sequence may have within `budget` bytes."""
        if self.of(limit) <= budget:
            return limit
        return max(0, budget - self.fixed) // self.per_token if self.per_token else 0

    @classmethod
    def between(cls, shorter: tuple[int, int], longer: tuple[int, int]) -> "SequenceBytes":
        """Returns the line through two measurements, each a number of tokens and its bytes."""
        per_token = -(-(longer[1] - shorter[1]) // (longer[0] - shorter[0]))
        return cls(per_token, max(0, longer[1] - per_token * longer[0]))
