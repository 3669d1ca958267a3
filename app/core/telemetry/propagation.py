"""Passes the id and the trace of a request on to the other servers that help to answer it."""

from contextvars import ContextVar

from app.core.telemetry.logging import request_id

# The header of that name, for requests to other servers; None if there is no trace.
traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


def outgoing_headers() -> dict[str, str]:
    """Returns the headers that say for which request another one is sent; none outside a request."""
    found = {"x-request-id": request_id.get(), "traceparent": traceparent.get()}
    return {name: value for name, value in found.items() if value is not None and value != "-"}
