"""Defines how the spans of requests are recorded, and the tracer that records none."""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


class RequestSpan(Protocol):
    """The span of one request over HTTP."""

    @property
    def trace_id(self) -> str | None:
        """The trace to which the request belongs, as 32 hexadecimal digits; None if there is none."""

    @property
    def traceparent(self) -> str | None:
        """The header of that name for requests to other servers; None if there is no trace."""

    def describe(self, name: str, route: str, status: int) -> None:
        """Sets the facts that are known only at the end of the request."""


class Tracer(Protocol):
    """Records the spans of one server."""

    def request(self, method: str, headers: Mapping[str, str]) -> AbstractContextManager[RequestSpan]:
        """Records a request over HTTP. Spans that begin meanwhile, also in other tasks, belong to it."""

    def reply(self, model_name: str, queue_s: float, first_token_s: float, total_s: float) -> None:
        """Records the stages of a reply that ends now. The times count from the arrival of its request."""

    def close(self) -> None:
        """Sends the spans that were not sent yet."""


class CallersTrace:
    """The trace that a request names in `traceparent`, where no spans are recorded."""

    def __init__(self, traceparent: str) -> None:
        """`traceparent` is the header, which may be wrong."""
        match = _TRACEPARENT.fullmatch(traceparent)
        self.trace_id = None if match is None else match[1]
        self.traceparent = None if match is None else traceparent

    def describe(self, name: str, route: str, status: int) -> None:
        """See RequestSpan."""


class NoTracer:
    """Records nothing, and knows the trace of each request all the same."""

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """See Tracer."""
        yield CallersTrace(headers.get("traceparent", ""))

    def reply(self, model_name: str, queue_s: float, first_token_s: float, total_s: float) -> None:
        """See Tracer."""

    def close(self) -> None:
        """See Tracer."""
