"""Loads models: finds or downloads the weights, makes room, and starts a backend that serves them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

from app.core.config import Settings
from app.core.errors import ModelLoadFailed, ModelUnavailable, ShuttingDown
from app.models.hub.client import Hub, Weights
from app.models.hub.generation_config import generation_config_of
from app.models.hub.progress import LoadReporter
from app.models.hub.threads import in_thread
from app.models.lifecycle.background import BackgroundTasks
from app.models.lifecycle.engines import EngineStarter, worker_spec
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.lifecycle.evictor import Evictor
from app.models.lifecycle.load_task import Load, LoadMonitor
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.metrics.lifecycle_metrics import LifecycleMetrics, LoadMeter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.schemas import LoadProgress

logger = logging.getLogger(__name__)


class ModelLoader:
    """Loads models. All requests that wait for a model share its one load. The owner must await `close`."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        registry: ModelRegistry,
        policy: EvictionPolicy,
        evictor: Evictor,
        engines: EngineStarter,
        background: BackgroundTasks,
        metrics: LifecycleMetrics | None = None,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._registry = registry
        self._policy = policy
        self._evictor = evictor
        self._engines = engines
        self._background = background
        self._metrics = ServerMetrics().lifecycle if metrics is None else metrics
        self._start_lock = asyncio.Lock()  # only one model at a time is loaded into memory
        self._loads: set[Load] = set()
        self._is_closing = False

    async def close(self) -> None:
        """Cancels every load and waits until they have ended. Later loads raise ShuttingDown."""
        self._is_closing = True
        for load in self._loads:
            load.cancel()
        await asyncio.gather(*(load.wait_closed() for load in self._loads))

    def load(self, state: ModelState) -> Load:
        """Returns the load in progress, or a new one.

        Raises:
            ShuttingDown.
        """
        if self._is_closing:
            raise ShuttingDown("The server is shutting down.")
        load = state.load
        if load is None or load.is_done or load.is_cancelled:
            meter = self._metrics.load_meter(state.name)
            monitor = LoadMonitor(state.name, meter)
            task = asyncio.create_task(self._run(state, monitor.report, meter))
            load = state.load = Load(task, monitor)
            self._loads = {load, *(other for other in self._loads if not other.is_done)}
        return load

    def start_background_load(self, state: ModelState) -> Load:
        """Starts or joins a load that is not cancelled when its waiters leave.

        Raises:
            ShuttingDown.
        """
        load = self.load(state)
        load.is_kept = True
        return load

    @contextmanager
    def pin(self, state: ModelState) -> Iterator[None]:
        """Keeps the model loaded while this is open."""
        state.pins += 1
        try:
            yield
        finally:
            state.pins -= 1
            state.last_used = self._policy.clock()
            self._evictor.trim()

    async def loading(self, state: ModelState) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        """Yields progress, then the model, which stays loaded until this is closed.

        If this is closed early and no other request waits for the load, the load is cancelled.

        Raises:
            ModelUnavailable.
        """
        with self.pin(state):
            if state.loaded is not None and state.is_serving:
                yield replace(state.loaded, load_time_s=0.0)
                return
            load = self.load(state)
            async with aclosing(load.events()) as progress:
                async for event in progress:
                    yield event
            yield await load.result()

    async def unload(self, state: ModelState) -> None:
        """Cancels the model's load, or takes it out of service, at once; then waits for its worker's end."""
        load = state.load
        if load is not None:
            load.cancel()
        state.error, state.is_recovering = None, False
        await self._evictor.unload(state)
        if load is not None:
            await load.wait_closed()

    async def _run(self, state: ModelState, report: LoadReporter, meter: LoadMeter) -> ServedModel:
        try:
            with meter:
                loaded = await self._obtain(state, report)
        except ModelUnavailable as error:
            logger.warning("model not loaded: model=%s code=%s", state.name, error.code)
            state.error = error
            raise
        except Exception as error:  # the task's root: waiters get the error, the log gets the traceback
            logger.exception("model not loaded: model=%s", state.name)
            state.error = ModelLoadFailed(f"{state.name} could not be loaded.", hint="See the log.")
            raise state.error from error
        self._finish(state, loaded)
        return loaded

    async def _obtain(self, state: ModelState, report: LoadReporter) -> ServedModel:
        began = time.monotonic()
        if state.loaded is not None:  # its worker has ended or is stuck
            self._metrics.count_restart(state.name)
            await self._evictor.unload(state)
        if state.profile.remote is not None:
            return await self._connect(state, report, began)
        weights = await self._hub.fetch(state.profile, report)
        async with self._start_lock:
            return await self._start(state, weights, report, began)

    def _finish(self, state: ModelState, loaded: ServedModel) -> None:
        memory_bytes = loaded.backend.stats.memory_bytes
        state.loaded, state.error, state.last_used = loaded, None, self._policy.clock()
        state.is_recovering = False
        has_draft = loaded.backend.info.draft is not None  # its memory is not counted as the model's
        state.measured_bytes = None if has_draft else memory_bytes
        if loaded.source.takes_pickle:
            self._background.spawn(self._hub.forget_pickle(loaded.source))
        logger.info(
            "model loaded: model=%s from=%s s=%.1f bytes=%d",
            state.name,
            loaded.model_id,
            loaded.load_time_s,
            memory_bytes,
        )

        logger.debug("worker: model=%s info=%s", state.name, loaded.backend.info)

    async def _connect(self, state: ModelState, report: LoadReporter, began: float) -> ServedModel:
        backend = await self._engines.connect(state.profile)
        report("ready", 1.0)
        return ServedModel(state.profile, state.profile.sources[0], backend, time.monotonic() - began)

    async def _start(
        self, state: ModelState, weights: Weights, report: LoadReporter, began: float
    ) -> ServedModel:
        source = weights.source
        states = self._registry.all()
        quantization = await in_thread(lambda: self._policy.quantization_of(state, weights.path, states))
        needed = await in_thread(lambda: self._policy.needed_bytes(state, weights.path, quantization))
        await self._evictor.make_room(state, needed, report)
        spec = worker_spec(
            self._settings,
            state.profile,
            weights,
            quantization=quantization,
            draft=await self._draft_for(state, needed),
            converts_to=str(self._hub.conversion_folder(source)) if source.takes_pickle else None,
            low_priority=any(other.loaded for other in self._registry.all()),
        )
        backend = await self._engines.start(spec, report)
        report("ready", 1.0)
        generation = await in_thread(lambda: generation_config_of(weights.path))
        return ServedModel(state.profile, source, backend, time.monotonic() - began, generation)

    async def _draft_for(self, state: ModelState, needed_bytes: int) -> Weights | None:
        """Returns the draft model, if it is on the disk and fits beside the model without an eviction."""
        if state.profile.draft is None:
            return None
        draft = await self._hub.on_disk(self._registry.find(state.profile.draft).profile)
        if draft is None:
            return None
        room = self._policy.room_bytes(self._registry.all())
        return draft if room is None or needed_bytes + draft.size_bytes <= room else None
