"""Reports the list of models, the facts about one model, and the health of the server."""

import time
import uuid
from typing import Protocol

from app import __version__
from app.models.conversation import now
from app.models.hub.client import Weights
from app.models.lifecycle.eviction_policy import MemoryForecast
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.model_manager import ModelManager
from app.models.schemas import (
    HealthResponse,
    LoadState,
    ModelEntry,
    ModelHealth,
    ModelInfoResponse,
    ModelListResponse,
    SamplingValue,
    ServerState,
)


class StorageHealth(Protocol):
    """Where conversations are kept."""

    @property
    def failure(self) -> str | None:
        """Why conversations cannot be stored now, as one sentence; None if they can."""


class ServerStatus:
    """Reads the manager without changing it. Each run of the server has its own `boot_id`."""

    def __init__(self, models: ModelManager, storage: StorageHealth | None = None) -> None:
        """Without `storage`, conversations can always be stored."""
        self._models = models
        self._storage = storage
        self._boot_id = uuid.uuid4().hex
        self._started = time.monotonic()

    async def list_models(self) -> ModelListResponse:
        on_disk = await self._models.on_disk()
        states = self._models.states()
        memory = self._models.memory_forecasts(states)
        return ModelListResponse(
            models=[self._entry(state, on_disk.get(state.name), memory[state.name]) for state in states],
            current_model=self._models.current_name,
            is_hub_reachable=self._models.is_hub_reachable,
        )

    def _entry(self, state: ModelState, weights: Weights | None, memory: MemoryForecast) -> ModelEntry:
        profile = state.profile
        return ModelEntry(
            name=profile.name,
            display_name=profile.display_name,
            status=self._status_of(state),
            is_current=state is self._models.current,
            model_id=_served_from(state, weights),
            sources=[source.model_id for source in profile.sources],
            is_on_disk=(state.loaded is not None and not state.is_remote) or weights is not None,
            is_remote=state.is_remote,
            description=profile.description,
            context_length=profile.context_length
            if state.loaded is None
            else state.loaded.backend.info.context_length,
            size_bytes=profile.size_bytes if weights is None else weights.size_bytes,
            memory_bytes=memory.needed_bytes,
            is_memory_measured=memory.is_measured,
            is_too_large=memory.is_too_large,
            is_pinned=profile.is_pinned,
            aliases=list(profile.aliases),
            open_requests=0 if state.loaded is None else state.loaded.backend.stats.open_requests,
            cache=None if state.loaded is None else state.loaded.backend.info.cache,
            progress=state.progress,
            error=self._failure(state),
        )

    def info(self, name: str | None = None) -> ModelInfoResponse:
        """Returns the facts about the named model, or about the current one.

        Raises:
            ModelNotFound, NoModelChosen.
        """
        state = self._models.find(name)
        facts = {} if state.loaded is None else _facts(state.loaded)
        return ModelInfoResponse(
            model_name=state.name,
            display_name=state.profile.display_name,
            loaded=self._status_of(state) == "loaded",
            status=self._status_of(state),
            error=self._failure(state),
            memory_bytes=self._models.memory_forecasts([state])[state.name].needed_bytes,
            **({"model_id": None, "context_length": state.profile.context_length} | facts),
        )

    def is_ready(self) -> bool:
        """Returns whether the server can answer requests.

        It can if the current model can serve. It also can if that model was unloaded, or if no model is
        current, because the next request then loads a model. It cannot while its database fails.
        """
        return self._storage_error is None and self._model_is_ready()

    @property
    def _storage_error(self) -> str | None:
        return None if self._storage is None else self._storage.failure

    def _model_is_ready(self) -> bool:
        current = self._models.current
        return current is None or current.is_serving or current.status == "available"

    def health(self) -> HealthResponse:
        current = self._models.current
        loads = [state.progress for state in self._models.states() if state.progress is not None]
        running, waiting = self._models.open_requests()
        return HealthResponse(
            status=self._server_status(),
            timestamp=now(),
            uptime=time.monotonic() - self._started,
            version=__version__,
            boot_id=self._boot_id,
            current_model=self._models.current_name,
            model=None if current is None else self._health(current),
            loading=loads,
            storage_error=self._storage_error,
            note=self._models.note,
            active_requests=running,
            queued_requests=waiting,
        )

    def _health(self, state: ModelState) -> ModelHealth:
        return ModelHealth(
            name=state.name,
            status=self._status_of(state),
            model_id=state.loaded.model_id if state.loaded is not None else None,
            progress=state.progress,
            error=self._failure(state),
        )

    def _server_status(self) -> ServerState:
        current = self._models.current
        if self._model_is_ready():
            return "ok" if self._storage_error is None else "degraded"
        if current is not None and (current.is_recovering or current.loaded is not None):
            return "degraded"
        return "loading" if current is not None and current.progress is not None else "unavailable"

    def _failure(self, state: ModelState) -> str | None:
        """Returns the reason why a loaded or requested model cannot serve; None if it can."""
        if state.error is not None:
            return f"{state.error.message} It is tried again." if state.is_recovering else state.error.message
        failure = None if state.loaded is None else state.loaded.backend.failure
        if failure is None:
            return None
        is_current = state is self._models.current
        if state.is_remote:
            return f"{failure} {'It' if is_current else 'The next request'} tries again."
        what_follows = "it is started again" if is_current else "the next request starts it again"
        return f"The worker of {state.name} {failure}; {what_follows}."

    def _status_of(self, state: ModelState) -> LoadState:
        """Returns the state to report: `failed` also for a worker that is alive but stuck."""
        return "failed" if state.status == "loaded" and self._failure(state) else state.status


def _served_from(state: ModelState, weights: Weights | None) -> str:
    """The id of the weights that serve the model, or would."""
    if state.loaded is not None:
        return state.loaded.model_id
    return (state.profile.sources[0] if weights is None else weights.source).model_id


def _facts(loaded: ServedModel) -> dict[str, str | int | float | dict[str, SamplingValue] | None]:
    info = loaded.backend.info
    return {
        "model_id": loaded.model_id,
        "architecture": info.architecture,
        "device": info.device,
        "dtype": info.dtype or None,
        "weights": info.weights or None,
        "cache": info.cache,
        "cache_reason": info.cache_reason,
        "guessed_template": info.guessed_template,
        "draft": info.draft,
        "parameters": info.parameters or None,
        "kv_cache_bytes": info.kv_cache_bytes or None,
        "context_length": info.context_length,
        "load_time": loaded.load_time_s,
        "sampling": dict(loaded.sampling),
    }
