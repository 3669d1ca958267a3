"""Records one streamed reply: when each piece arrived, and how many tokens it had."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(slots=True)
class Trace:
    """The course of one reply as the client sees it, in seconds of the monotonic clock."""

    began: float = field(default_factory=time.monotonic)
    arrivals: list[float] = field(default_factory=list)  # of pieces of one or more tokens
    sizes: list[int] = field(default_factory=list)  # in tokens
    prompt_tokens: int | None = None  # None: not reported
    cached_tokens: int | None = None
    reported_tokens: int | None = None

    def piece(self, tokens: int = 1) -> None:
        self.arrivals.append(time.monotonic())
        self.sizes.append(tokens)

    @property
    def tokens(self) -> int:
        return sum(self.sizes) if self.reported_tokens is None else self.reported_tokens

    @property
    def first_token_s(self) -> float:
        return self.arrivals[0] - self.began

    @property
    def tokens_per_s(self) -> float:
        """The decoding rate after the first token."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    def gaps(self, since: float, until: float) -> list[float]:
        """Seconds between consecutive pieces that arrived within the given time."""
        times = [since, *(time for time in self.arrivals if since < time <= until)]
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]

    def tokens_within(self, since: float, until: float) -> int:
        pairs = zip(self.arrivals, self.sizes, strict=True)
        return sum(size for time, size in pairs if since < time <= until)


def total_tokens_per_s(traces: Sequence[Trace]) -> float:
    """The number of all tokens divided by the time from the first request to the last piece."""
    took_s = max(trace.arrivals[-1] for trace in traces) - min(trace.began for trace in traces)
    return sum(trace.tokens for trace in traces) / took_s


def median_first_token_s(traces: Sequence[Trace]) -> float:
    return median(trace.first_token_s for trace in traces)
