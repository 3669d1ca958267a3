"""Counts what happens to models: their loads with the stages, restarts of workers, evictions."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary

from app.models.metrics.labels import ModelLabels

EvictionReason = Literal["memory", "limit", "idle"]

_LOAD_S = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)


class LifecycleMetrics:
    """The figures of the lives of all models."""

    def __init__(
        self, registry: CollectorRegistry, labels: ModelLabels, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._labels = labels
        self._clock = clock
        self._loads = Counter(
            "llm_model_loads",
            "Loads that have ended: loaded, failed or cancelled.",
            ("model_name", "outcome"),
            registry=registry,
        )
        self._load_s = Histogram(
            "llm_model_load_seconds",
            "Time of the loads that succeeded.",
            ("model_name",),
            buckets=_LOAD_S,
            registry=registry,
        )
        self._stage_s = Summary(
            "llm_model_load_stage_seconds",
            "Time of the stages of loads.",
            ("model_name", "stage"),
            registry=registry,
        )
        self._restarts = Counter(
            "llm_worker_restarts",
            "Loads of models whose worker had ended or was stuck.",
            ("model_name",),
            registry=registry,
        )
        self._evictions = Counter(
            "llm_model_evictions",
            "Models unloaded to free memory, to keep within the limit of models, or because they were idle.",
            ("model_name", "reason"),
            registry=registry,
        )

    def load_meter(self, model_name: str) -> "LoadMeter":
        """Returns a meter for one load, which begins now. Run the load in its context."""
        label = self._labels.of(model_name)
        return LoadMeter(self._loads, self._load_s.labels(label), self._stage_s, label, self._clock)

    def count_restart(self, model_name: str) -> None:
        self._restarts.labels(self._labels.of(model_name)).inc()

    def count_eviction(self, model_name: str, reason: EvictionReason) -> None:
        self._evictions.labels(self._labels.of(model_name), reason).inc()


class LoadMeter:
    """Measures one load and its stages, each from its first report to that of the next one.

    The load failed if its context is left by an Exception, and was cancelled if by another exception.
    """

    def __init__(
        self, loads: Counter, load_s: Histogram, stage_s: Summary, label: str, clock: Callable[[], float]
    ) -> None:
        self._loads = loads
        self._load_s = load_s
        self._stage_s = stage_s
        self._label = label
        self._clock = clock
        self._began = self._stage_began = clock()
        self._stage = "resolve"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stage != "ready":
            self._close_stage()
        if kind is None:
            self._load_s.observe(self._clock() - self._began)
            outcome = "loaded"
        else:
            outcome = "failed" if issubclass(kind, Exception) else "cancelled"
        self._loads.labels(self._label, outcome).inc()

    def enter_stage(self, stage: str) -> None:
        """Ends the stage before. Call it when another stage is reported."""
        self._close_stage()
        self._stage = stage

    def _close_stage(self) -> None:
        now = self._clock()
        self._stage_s.labels(self._label, self._stage).observe(now - self._stage_began)
        self._stage_began = now
