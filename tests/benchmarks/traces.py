"""Owns what is noted of one reply as it comes: when each piece arrived, and what it was made of."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Trace:
    """Seconds of the monotonic clock, as the asker sees them."""

    began: float = field(default_factory=time.monotonic)
    arrivals: list[float] = field(default_factory=list)  # of pieces, of one token or more
    sizes: list[int] = field(default_factory=list)  # in tokens
    prompt_tokens: int | None = None  # None: not told
    cached_tokens: int | None = None
    told_tokens: int | None = None

    def piece(self, tokens: int = 1) -> None:
        self.arrivals.append(time.monotonic())
        self.sizes.append(tokens)

    @property
    def tokens(self) -> int:
        return sum(self.sizes) if self.told_tokens is None else self.told_tokens

    @property
    def first_token_s(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def tokens_per_s(self) -> float:
        """Of what followed the first token."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    def gaps(self, since: float, until: float) -> list[float]:
        """Seconds between the pieces that came within that time."""
        times = [since, *(time for time in self.arrivals if since < time <= until)]
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]

    def tokens_within(self, since: float, until: float) -> int:
        pairs = zip(self.arrivals, self.sizes, strict=True)
        return sum(size for time, size in pairs if since < time <= until)


def total_tokens_per_s(traces: Sequence[Trace]) -> float:
    """All tokens, over the time from the first request to the last piece."""
    took_s = max(trace.arrivals[-1] for trace in traces) - min(trace.began for trace in traces)
    return sum(trace.tokens for trace in traces) / took_s


def median_first_token_s(traces: Sequence[Trace]) -> float:
    return median(trace.first_token_s for trace in traces)
