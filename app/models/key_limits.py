"""Limits what each caller may use: open requests, and requests and tokens a minute."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from app.core.config import Settings
from app.core.errors import RateLimitExceeded

Resource = Literal["requests", "tokens"]

WINDOW_S = 60
_UNTIL_ONE_ENDS_S = 1  # nobody knows when an open request ends


@dataclass(frozen=True, slots=True)
class Budget:
    """The state of one limit, for the headers of a reply. All of it is there again after `reset_s`."""

    resource: Resource
    limit: int
    remaining: int
    reset_s: int


@dataclass(slots=True)
class _Uses:
    """Uses within one second, which count as long as the last of them."""

    first_at: float
    last_at: float
    amount: int


class MinuteWindow:
    """Counts what was used in the last minute, or up to a second longer, so that its size is bounded."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._used = 0
        self._uses: deque[_Uses] = deque()  # the oldest first

    def add(self, amount: int) -> None:
        """Counts a use, even one beyond the limit."""
        self._forget()
        self._used += amount
        now = self._clock()
        if self._uses and now - self._uses[-1].first_at < 1:
            self._uses[-1].last_at = now
            self._uses[-1].amount += amount
        else:
            self._uses.append(_Uses(now, now, amount))

    def wait_s(self) -> int:
        """Returns in how many whole seconds something will be left; 0 if something is left now."""
        self._forget()
        used, wait_s = self._used, 0
        for uses in self._uses:
            if used < self.limit:
                break
            used, wait_s = used - uses.amount, self._remaining_s(uses)
        return wait_s

    def budget(self, resource: Resource) -> Budget:
        self._forget()
        reset_s = self._remaining_s(self._uses[-1]) if self._uses else 0
        return Budget(resource, self.limit, max(self.limit - self._used, 0), reset_s)

    def _forget(self) -> None:
        while self._uses and self._remaining_s(self._uses[0]) <= 0:
            self._used -= self._uses.popleft().amount

    def _remaining_s(self, uses: _Uses) -> int:
        """Returns for how many seconds, rounded up, the uses still count."""
        return math.ceil(uses.last_at + WINDOW_S - self._clock())


@dataclass(slots=True)
class TokenMeter:
    """Counts the tokens of one request while it runs."""

    _window: MinuteWindow | None
    _completion: int = 0

    def count_prompt(self, tokens: int) -> None:
        self._add(tokens)

    def count_completion(self, tokens_so_far: int) -> None:
        """Counts those that the last call did not report yet."""
        self._add(tokens_so_far - self._completion)
        self._completion = tokens_so_far

    def _add(self, tokens: int) -> None:
        if self._window is not None and tokens > 0:
            self._window.add(tokens)


@dataclass(slots=True)
class _Caller:
    """The use of one caller."""

    requests: MinuteWindow | None
    tokens: MinuteWindow | None
    open_requests: int = 0


@dataclass(slots=True)
class KeyLimits:
    """The limits of each caller, and their use. A limit of None is none.

    `requests_per_minute` is for requests over HTTP. The other two are for requests to a model, of which one
    over HTTP can make several.
    """

    max_open_requests: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    clock: Callable[[], float] = time.monotonic  # seconds
    _callers: dict[str, _Caller] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "KeyLimits":
        return cls(
            settings.key_max_open_requests, settings.key_requests_per_minute, settings.key_tokens_per_minute
        )

    def count_request(self, owner: str) -> None:
        """Counts a request over HTTP.

        Raises:
            RateLimitExceeded: too many in the last minute. This one does not count then.
        """
        requests = self._caller(owner).requests
        if requests is None:
            return
        _check(requests, "requests", "LLM_KEY_REQUESTS_PER_MINUTE")
        requests.add(1)

    @contextmanager
    def admit(self, owner: str) -> Iterator[TokenMeter]:
        """Holds a request to a model open and yields its meter. Several of a caller may be open at once.

        Its tokens count once they are known, so the last request of a minute may exceed what was left.

        Raises:
            RateLimitExceeded: too many are open, or the tokens of the last minute are used up.
        """
        caller = self._caller(owner)
        if self.max_open_requests is not None and caller.open_requests >= self.max_open_requests:
            raise RateLimitExceeded(
                f"A caller may have {self.max_open_requests:,} open requests, and as many are open.",
                hint="Wait until one has ended. LLM_KEY_MAX_OPEN_REQUESTS sets the limit.",
                retry_after=_UNTIL_ONE_ENDS_S,
            )
        if caller.tokens is not None:
            _check(caller.tokens, "tokens", "LLM_KEY_TOKENS_PER_MINUTE")
        caller.open_requests += 1
        try:
            yield TokenMeter(caller.tokens)
        finally:
            caller.open_requests -= 1

    def budgets(self, owner: str) -> list[Budget]:
        """Returns the state of each limit a minute that there is."""
        caller = self._caller(owner)
        requests = [] if caller.requests is None else [caller.requests.budget("requests")]
        tokens = [] if caller.tokens is None else [caller.tokens.budget("tokens")]
        return requests + tokens

    def _caller(self, owner: str) -> _Caller:
        if owner not in self._callers:
            self._callers[owner] = _Caller(
                self._window(self.requests_per_minute), self._window(self.tokens_per_minute)
            )
        return self._callers[owner]

    def _window(self, limit: int | None) -> MinuteWindow | None:
        return None if limit is None else MinuteWindow(limit, self.clock)


def _check(window: MinuteWindow, resource: Resource, setting: str) -> None:
    if (wait_s := window.wait_s()) > 0:
        raise RateLimitExceeded(
            f"A caller may use {window.limit:,} {resource} a minute, and they are used up.",
            hint=f"Try again in {wait_s} s. {setting} sets the limit.",
            retry_after=wait_s,
        )
