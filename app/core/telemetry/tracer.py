"""Records spans of requests for OpenTelemetry, if its variables are set and its packages are installed."""

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
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
        """Sets what is known only at the end of the request."""


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


def choose_tracer(environ: Mapping[str, str]) -> Tracer:
    """Returns the tracer that OpenTelemetry's own variables ask for."""
    is_on = any(environ.get(name) for name in _ENDPOINTS) or environ.get("OTEL_TRACES_EXPORTER") == "otlp"
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or (
        environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )
    if not is_on or is_off:
        return NoTracer()
    if not all(map(_is_installed, _PACKAGES)):
        logger.warning(
            "no traces are sent: pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        )
        return NoTracer()
    from app.core.telemetry.otel import OtelTracer  # the packages are optional

    return OtelTracer()


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
