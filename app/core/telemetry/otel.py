"""Sends spans to an OpenTelemetry collector, over HTTP. The variables OTEL_* configure it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app import __version__
from app.core.telemetry.logging import request_id
from app.core.telemetry.tracer import RequestSpan

_NAME = "llm-server"


class OtelRequestSpan:
    """A RequestSpan that is sent. Its names are those of OpenTelemetry's conventions for HTTP."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def trace_id(self) -> str:
        """See RequestSpan."""
        return format_trace_id(self._span.get_span_context().trace_id)

    @property
    def traceparent(self) -> str | None:
        """See RequestSpan."""
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(self._span))
        return carrier.get("traceparent")

    def describe(self, name: str, route: str, status: int) -> None:
        """See RequestSpan."""
        self._span.update_name(name)
        self._span.set_attribute("http.route", route)
        self._span.set_attribute("http.response.status_code", status)
        self._span.set_attribute("llm.request_id", request_id.get())
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))


class OtelTracer:
    """A Tracer that sends its spans in batches, from a thread of its own."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        """Without an `exporter`, the variables OTEL_EXPORTER_OTLP_* say where to send them."""
        default = Resource.create({SERVICE_NAME: _NAME, SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=default.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer(_NAME, __version__)

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """See Tracer."""
        parent = TraceContextTextMapPropagator().extract(dict(headers))
        attributes = {"http.request.method": method}
        with self._tracer.start_as_current_span(
            method, context=parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            yield OtelRequestSpan(span)

    def reply(self, model_name: str, queue_s: float, first_token_s: float, total_s: float) -> None:
        """See Tracer."""
        now = time.time_ns()
        times = [now - int((total_s - moment) * 1e9) for moment in (0.0, queue_s, first_token_s, total_s)]
        for name, start, end in zip(("queue", "prefill", "decode"), times, times[1:], strict=False):
            span = self._tracer.start_span(
                name, start_time=start, attributes={"gen_ai.response.model": model_name}
            )
            span.end(end)

    def close(self) -> None:
        """See Tracer."""
        self._provider.shutdown()
