"""Spans go to a collector if OpenTelemetry's variables ask for it, and only then."""

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.core.config import Settings
from app.core.telemetry.choice import choose_tracer
from app.core.telemetry.otel import OtelTracer
from app.core.telemetry.tracer import NoTracer
from app.main import create_app
from app.models.chat.generation import ChatGenerator
from app.models.choices import ChoiceGenerator
from app.models.metrics.server_metrics import ServerMetrics
from app.services import Services
from tests.api.fakes import Scripted, scripted_services
from tests.core.telemetry.collector import running_collector
from tests.models.stand_in import WHOLE, StandInBackend, StandInModels

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "x"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_no_spans_are_recorded_unless_the_variables_ask(environ: dict[str, str]) -> None:
    assert isinstance(choose_tracer(environ), NoTracer)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "rubbish",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_wrong_traceparent_is_ignored(given: str) -> None:
    with NoTracer().request("GET", {"traceparent": given}) as span:
        assert span.trace_id is None


def test_trace_of_the_caller_is_kept_without_spans() -> None:
    given = f"00-{TRACE}-{PARENT}-01"
    with NoTracer().request("GET", {"traceparent": given}) as span:
        assert (span.trace_id, span.traceparent) == (TRACE, given)


def test_other_servers_are_told_the_span_of_the_request() -> None:
    tracer = OtelTracer(InMemorySpanExporter())
    with tracer.request("GET", {"traceparent": f"00-{TRACE}-{PARENT}-01"}) as span:
        assert span.traceparent is not None
        _, trace, own, _ = span.traceparent.split("-")
    tracer.close()
    assert trace == TRACE and own != PARENT


def test_spans_of_a_request_reach_a_collector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-server")
        tracer = choose_tracer({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})
        assert isinstance(tracer, OtelTracer)

        def build(settings: Settings) -> Services:
            metrics = ServerMetrics(tracer=tracer)
            generator = ChatGenerator(StandInModels(StandInBackend(reply=WHOLE)), metrics=metrics.requests)
            services = scripted_services(Scripted(), settings)
            return replace(services, choices=ChoiceGenerator(settings, generator), tracer=tracer)

        async def request() -> None:
            app = create_app(Settings(_env_file=None), build)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
            ):
                body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
                headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
                reply = await client.post("/v1/chat/completions", json=body, headers=headers)
                assert reply.status_code == 200

        asyncio.run(request())  # its end sends the spans
        spans = collector.spans
    top = spans["POST /v1/chat/completions"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert top.parent_span_id.hex() == PARENT
    attributes = {attribute.key: attribute.value for attribute in top.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["llm.request_id"].string_value == "mine"
    stages = [spans[name] for name in ("queue", "prefill", "decode")]
    assert all(span.parent_span_id == top.span_id for span in stages)
    seconds = [round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, 3) for span in stages]
    assert seconds == [0.0, 0.5, 1.5]
