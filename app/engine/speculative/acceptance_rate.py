"""Estimates how often draft tokens are right, and how many of them are worth verifying."""

_PRIOR_WEIGHT = 4.0  # weight of the prior acceptance rate, in tokens
_DECAY = 0.9  # by which each verified token reduces the weight of the earlier ones
_SETTLED = 16  # verified tokens after which a good acceptance rate is no longer luck
_FIRST_PAUSE = 64  # tokens without speculation; doubled each time speculation fails to pay again


class AcceptanceRate:
    """How often one source of draft tokens was right for one request. A source that does not pay pauses."""

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._accepted = self._verified = 0.0
        self._pause = _FIRST_PAUSE
        self._resumes_at = 0

    def draft_length(self, limit: int, cost: float, sequence_length: int) -> int:
        """Returns how many draft tokens to propose, at most `limit`, if each costs `cost` decode steps."""
        if limit <= 0 or sequence_length < self._resumes_at:
            return 0
        length = best_draft_length(self._estimate, cost, limit)
        if length == 0:
            self._resumes_at = sequence_length + self._pause
            self._pause *= 2
            self._accepted = self._verified = 0.0
        elif self._verified >= _SETTLED:
            self._pause = _FIRST_PAUSE
        return length

    def learn(self, proposed: int, accepted: int) -> None:
        """Learn that the first `accepted` of `proposed` draft tokens were right.

        The tokens after the first wrong one do not count.
        """
        verified = min(accepted + 1, proposed)
        self._accepted = self._accepted * _DECAY**verified + accepted
        self._verified = self._verified * _DECAY**verified + verified

    @property
    def _estimate(self) -> float:
        return (self._accepted + self._prior * _PRIOR_WEIGHT) / (self._verified + _PRIOR_WEIGHT)


def best_draft_length(acceptance_rate: float, cost: float, limit: int) -> int:
    """Returns the number of draft tokens that yields most tokens per second; 0 if a plain step does.

    A step with k draft tokens takes 1 + k · cost plain steps and is expected to yield 1 + rate + … + rate^k
    tokens (https://arxiv.org/abs/2211.17192, equation 1).
    """
    best, best_yield, tokens = 0, 1.0, 1.0
    for length in range(1, limit + 1):
        tokens += acceptance_rate**length
        tokens_per_step = tokens / (1 + length * cost)
        if tokens_per_step > best_yield:
            best, best_yield = length, tokens_per_step
    return best
