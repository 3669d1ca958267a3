"""Unloads models: to make room for another one, to keep within the limits, and after the idle timeout.

A model is taken out of service as soon as it is chosen, before the next `await`, so that no request can get a
model whose worker is about to end.
"""

import asyncio
import logging
import time

from app.models.hub.progress import LoadReporter
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.metrics.lifecycle_metrics import EvictionReason, LifecycleMetrics
from app.models.metrics.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.02
_MAX_IDLE_POLL_S = 10.0


class Evictor:
    """Unloads models. `drain_timeout_s` limits how long a load waits for another model's requests to end."""

    def __init__(
        self,
        registry: ModelRegistry,
        policy: EvictionPolicy,
        drain_timeout_s: float,
        metrics: LifecycleMetrics | None = None,
    ) -> None:
        self._registry = registry
        self._policy = policy
        self._drain_timeout_s = drain_timeout_s
        self._metrics = ServerMetrics().lifecycle if metrics is None else metrics
        self._unloads: set[asyncio.Task[None]] = set()

    async def unload(self, state: ModelState) -> None:
        """Takes the model out of service at once, then waits until its worker has ended.

        The worker ends even if the wait is cancelled.
        """
        unload = self._start_unload(state)
        if unload is not None:
            await asyncio.shield(unload)

    async def close(self) -> None:
        """Unloads every model. Open requests end with ShuttingDown."""
        for state in self._registry.all():
            self._start_unload(state)
        await self._finish_unloads()

    def trim(self) -> None:
        """Starts unloading the models that exceed the number allowed."""
        while (surplus := self._surplus(incoming=0)) is not None:
            self._metrics.count_eviction(surplus.name, "limit")
            self._start_unload(surplus)

    async def unload_idle_models(self) -> None:
        """Unloads each model that has had no request for the idle timeout, as long as the server runs."""
        timeout_s = self._policy.idle_timeout_s
        while timeout_s is not None:
            await asyncio.sleep(min(timeout_s / 4, _MAX_IDLE_POLL_S))
            while (idle := self._policy.idle_candidate(self._registry.all())) is not None:
                await self._evict(idle, "idle")

    async def make_room(self, incoming: ModelState, needed_bytes: int, report: LoadReporter) -> None:
        """Unloads idle models until the incoming one fits.

        For the current model it also waits until the requests of another one have ended.

        Raises:
            ModelTooLarge: the model would not fit even after every possible eviction. If that is known
                beforehand, nothing is unloaded.
        """
        await self._finish_unloads()  # workers that are ending are about to free their memory
        may_wait = incoming is self._registry.current
        self._policy.check_possible(incoming, needed_bytes, self._registry.all(), may_wait=may_wait)
        while (surplus := self._surplus(incoming=1)) is not None:
            await self._evict(surplus, "limit")
        while not self._fits(needed_bytes):
            candidate = self._policy.eviction_candidate(self._registry.all(), self._registry.current)
            if candidate is None and may_wait:
                candidate = await self._drain(needed_bytes, report)
            if candidate is None:
                break
            await self._evict(candidate, "memory")
        self._policy.check(incoming, needed_bytes, self._registry.all())

    async def _evict(self, state: ModelState, reason: EvictionReason) -> None:
        self._metrics.count_eviction(state.name, reason)
        await self.unload(state)

    def _surplus(self, incoming: int) -> ModelState | None:
        return self._policy.surplus_candidate(self._registry.all(), self._registry.current, incoming)

    def _fits(self, needed_bytes: int) -> bool:
        room = self._policy.room_bytes(self._registry.all())
        return room is None or needed_bytes <= room

    async def _drain(self, needed_bytes: int, report: LoadReporter) -> ModelState | None:
        """Waits until a model that is large enough becomes idle, and returns it.

        Returns None after the timeout, or if no model is large enough.
        """
        states = self._registry.all()
        suitable = (state for state in states if self._policy.fits_instead(needed_bytes, state, states))
        state = next(suitable, None)
        if state is None:
            return None
        report("drain", 0.0)
        deadline = time.monotonic() + self._drain_timeout_s
        while not state.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
        report("drain", 1.0)
        return state if state.is_idle else None

    def _start_unload(self, state: ModelState) -> asyncio.Task[None] | None:
        loaded, state.loaded = state.loaded, None
        if loaded is None:
            return None
        state.totals += loaded.backend.stats.totals
        unload = asyncio.create_task(_end(loaded))
        self._unloads.add(unload)
        unload.add_done_callback(self._unloads.discard)
        return unload

    async def _finish_unloads(self) -> None:
        while self._unloads:
            await asyncio.wait(self._unloads)


async def _end(model: ServedModel) -> None:
    try:
        await model.backend.close()
    except Exception:  # the task's root
        logger.exception("worker did not end: model=%s", model.profile.name)
    else:
        logger.info("model unloaded: model=%s", model.profile.name)
