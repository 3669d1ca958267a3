"""Reports the figures of a server, to Prometheus and to people."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from app import __version__
from app.core.errors import StoreUnavailable
from app.models.lifecycle.state import ModelState
from app.models.metrics.model_figures import is_known, model_figures
from app.models.metrics.server_metrics import ServerMetrics
from app.models.schemas import ActivityResponse, ModelActivity

logger = logging.getLogger(__name__)

_COUNT_LIMIT_S = 1.0  # for counting the conversations, because a database may be slow


class ModelStates(Protocol):
    def states(self) -> Sequence[ModelState]: ...


class CountedStorage(Protocol):
    @property
    def dropped(self) -> Mapping[str, int]:
        """How many conversations were dropped since the start, by the limit that they exceeded."""

    async def count(self) -> int:
        """Returns the number of conversations of all owners. Raises StoreUnavailable."""


class MetricsReporter:
    """The service behind GET /metrics and GET /api/v1/activity."""

    def __init__(
        self,
        metrics: ServerMetrics | None = None,
        models: ModelStates | None = None,
        storage: CountedStorage | None = None,
    ) -> None:
        """Without `models` or `storage`, their present figures are left out."""
        self._metrics = ServerMetrics() if metrics is None else metrics
        self._models = models
        self._storage = storage
        self._started = time.monotonic()

    def count_http(self, surface: str, status: int, seconds: float) -> None:
        """See ServerMetrics."""
        self._metrics.count_http(surface, status, seconds)

    def activity(self, owner: str) -> ActivityResponse:
        """Returns the models with their load, and the owner's open requests and last failures."""
        requests, states = self._metrics.requests, [] if self._models is None else self._models.states()
        return ActivityResponse(
            version=__version__,
            uptime=time.monotonic() - self._started,
            models=[self._model_activity(state) for state in states if is_known(state)],
            requests=requests.activity.requests_of(owner),
            failures=requests.activity.failures_of(owner),
        )

    def _model_activity(self, state: ModelState) -> ModelActivity:
        stats = None if state.loaded is None else state.loaded.backend.stats
        tokens = self._metrics.requests.tokens_of(self._metrics.labels.of(state.name))
        return ModelActivity(
            name=state.name,
            status="failed" if state.status == "loaded" and not state.is_serving else state.status,
            running=0 if stats is None else stats.running,
            waiting=0 if stats is None else stats.open_requests - stats.running,
            kv_used=0.0 if stats is None else stats.kv_used_bytes / max(stats.kv_cache_bytes, 1),
            memory_bytes=None if stats is None else stats.memory_bytes,
            prompt_tokens=tokens.prompt,
            generated_tokens=tokens.generated,
        )

    async def report(self) -> bytes:
        """Returns all figures in MEDIA_TYPE."""
        state = [] if self._models is None else model_figures(self._models.states(), self._metrics.labels)
        state += await self._conversations()
        return await asyncio.to_thread(self._metrics.render, state)

    async def _conversations(self) -> list[Metric]:
        """Returns what the storage counts, without the conversations if that takes too long."""
        if self._storage is None:
            return []
        dropped = CounterMetricFamily(
            "llm_conversations_dropped",
            "Conversations dropped from memory, by the limit that they exceeded.",
            labels=["limit"],
        )
        for limit, number in self._storage.dropped.items():
            dropped.add_metric([limit], number)
        stored = await _stored(self._storage)
        if stored is None:
            return [dropped]
        return [dropped, GaugeMetricFamily("llm_conversations", "Conversations that are stored.", stored)]


async def _stored(storage: CountedStorage) -> int | None:
    """Returns the number of conversations; None if the storage cannot count them in time."""
    try:
        async with asyncio.timeout(_COUNT_LIMIT_S):
            return await storage.count()
    except (StoreUnavailable, TimeoutError):
        logger.debug("the conversations could not be counted")
        return None
