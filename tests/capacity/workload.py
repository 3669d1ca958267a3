"""The load: conversations with message lengths, reply lengths and think times from stated distributions."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

Turns = tuple["PlannedTurn", ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A log-normal distribution with this mean. `variation` is the standard deviation over the mean."""

    mean: float
    variation: float = 0.0

    def draw(self, source: random.Random) -> float:
        if self.variation == 0 or self.mean == 0:
            return self.mean
        variance = math.log(1 + self.variation**2)
        return source.lognormvariate(math.log(self.mean) - variance / 2, math.sqrt(variance))


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    think_s: float  # from the end of the last reply, or from the start
    message_tokens: int
    reply_tokens: int


@dataclass(frozen=True, slots=True)
class Workload:
    """`conversations` users, each in one conversation at a time. When one ends, the next one begins.

    Turns begin until `duration_s`; figures count turns that begin after `warm_up_s`. The same seed gives
    each user the same conversations, whatever serves them.
    """

    conversations: int
    turns: Quantity = Quantity(6, 0.6)
    think_s: Quantity = Quantity(30, 1.0)
    message_tokens: Quantity = Quantity(60, 1.0)
    reply_tokens: Quantity = Quantity(200, 0.7)
    duration_s: float = 600.0
    warm_up_s: float = 120.0
    seed: int = 0

    @property
    def measured_s(self) -> float:
        return self.duration_s - self.warm_up_s

    def of_user(self, user: int) -> Iterator[Turns]:
        """Yields the conversations of a user, without an end."""
        source = random.Random(f"{self.seed}/{user}")
        while True:
            count = max(1, round(self.turns.draw(source)))
            yield tuple(self._turn(source) for _ in range(count))

    def _turn(self, source: random.Random) -> PlannedTurn:
        return PlannedTurn(
            self.think_s.draw(source),
            max(1, round(self.message_tokens.draw(source))),
            max(1, round(self.reply_tokens.draw(source))),
        )


def fitting(turns: Turns, window: int, overhead_tokens: int) -> Turns:
    """Returns the leading turns whose history fits into a window of tokens, but the first in any case.

    Each turn has `overhead_tokens` of the chat template. A message or reply beyond the window is cut.
    """
    room, kept = window, list[PlannedTurn]()
    for turn in turns:
        needed = overhead_tokens + turn.message_tokens + turn.reply_tokens
        if kept and needed > room:
            break
        if needed > room:
            reply = min(turn.reply_tokens, room // 2)
            turn = PlannedTurn(turn.think_s, room - reply - overhead_tokens, reply)
        kept.append(turn)
        room -= needed
    return tuple(kept)
