"""Adds up the work of the models for one request over HTTP, for its log line."""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestUsage:
    """The replies of models to one request. Times are in seconds; of several replies, the longest counts."""

    models: set[str] = field(default_factory=set)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: set[str] = field(default_factory=set)
    queue_s: float | None = None
    first_token_s: float | None = None

    def add_times(self, queue_s: float, first_token_s: float) -> None:
        self.queue_s = max(queue_s, self.queue_s or 0)
        self.first_token_s = max(first_token_s, self.first_token_s or 0)

    def fields(self) -> dict[str, str | int | float]:
        """Returns the fields of the log line; none if no model was asked."""
        if not self.models:
            return {}
        found: dict[str, str | int | float] = {
            "model": ",".join(sorted(self.models)),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "finish_reason": ",".join(sorted(self.finish_reasons)),
        }
        times = {"queue_ms": self.queue_s, "first_token_ms": self.first_token_s}
        return found | {name: round(value * 1000) for name, value in times.items() if value is not None}


# The usage of the request over HTTP that is being handled, also in the tasks that it has started.
current_usage: ContextVar[RequestUsage | None] = ContextVar("current_usage", default=None)
