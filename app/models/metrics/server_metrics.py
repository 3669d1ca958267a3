"""All figures of one server, for Prometheus."""

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from app.core.telemetry.tracer import NoTracer, Tracer
from app.models.metrics.labels import ModelLabels
from app.models.metrics.lifecycle_metrics import LifecycleMetrics
from app.models.metrics.request_metrics import RequestMetrics
from app.models.metrics.store_metrics import StoreMetrics

# The only format: in OpenMetrics, prometheus_client replaces the colons of vLLM's names.
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HTTP_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class ServerMetrics:
    """Counts what happens in one server. Two servers in one process share nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, tracer: Tracer | None = None) -> None:
        """The stages of replies are also recorded by the `tracer`, if there is one."""
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.labels = labels = ModelLabels()
        self.requests = RequestMetrics(registry, labels, NoTracer() if tracer is None else tracer, clock)
        self.lifecycle = LifecycleMetrics(registry, labels, clock)
        self.store = StoreMetrics(registry, clock)
        self._http = Counter(
            "llm_http_requests",
            "Requests over HTTP that have ended. 499: the client left before the reply.",
            ("surface", "status"),
            registry=registry,
        )
        self._http_s = Histogram(
            "llm_http_request_duration_seconds",
            "Time of requests over HTTP, to the end of the reply.",
            ("surface",),
            buckets=_HTTP_S,
            registry=registry,
        )

    def count_http(self, surface: str, status: int, seconds: float) -> None:
        """Counts a request over HTTP that has ended. `surface` must be one of a few names."""
        self._http.labels(surface, str(status)).inc()
        self._http_s.labels(surface).observe(seconds)

    def render(self, state: Iterable[Metric]) -> bytes:
        """Returns all figures and those of `state` in MEDIA_TYPE. Any thread may call this."""
        return generate_latest(_Exposition(self._registry, state))


class _Exposition:
    """The part of a registry that the encoders use, without the times at which its series were created."""

    def __init__(self, registry: CollectorRegistry, state: Iterable[Metric]) -> None:
        self._registry = registry
        self._state = state

    def collect(self) -> Iterator[Metric]:
        yield from self._state
        for family in self._registry.collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family
