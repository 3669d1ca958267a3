"""Owns what the server says of its models: the list, one model's facts, and its health. Changes nothing."""

import time
import uuid
from typing import Literal

from app import __version__
from app.models.conversation import now
from app.models.lifecycle.state import ModelState, ServedModel
from app.models.model_manager import ModelManager
from app.models.schemas import (
    HealthResponse,
    LoadState,
    ModelEntry,
    ModelHealth,
    ModelInfoResponse,
    ModelListResponse,
)


class ServerStatus:
    """Reads the manager. `boot_id` tells one run of the server from the next."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models
        self._boot_id = uuid.uuid4().hex
        self._started = time.monotonic()

    def list_models(self) -> ModelListResponse:
        return ModelListResponse(
            models=[self._entry(entry) for entry in self._models.entries()],
            current_model=self._models.current_name,
        )

    def _entry(self, entry: ModelState) -> ModelEntry:
        profile = entry.profile
        model_id, is_on_disk = self._models.served_from(entry)
        return ModelEntry(
            name=profile.name,
            display_name=profile.display_name,
            status=self._state(entry),
            is_current=entry is self._models.current,
            model_id=model_id,
            sources=[source.model_id for source in profile.sources],
            is_on_disk=is_on_disk,
            description=profile.description,
            context_length=profile.context_length
            if entry.loaded is None
            else entry.loaded.backend.info.context_length,
            size_bytes=profile.size_bytes,
            memory_bytes=profile.memory_bytes if entry.measured_bytes is None else entry.measured_bytes,
            is_pinned=profile.is_pinned,
            open_requests=0 if entry.loaded is None else entry.loaded.backend.stats.open_requests,
            progress=entry.progress,
            error=self._trouble(entry),
        )

    def info(self, name: str | None = None) -> ModelInfoResponse:
        """Facts of one model, the current one if none is named.

        Raises:
            ModelNotFound: with the nearest names.
        """
        entry = self._models.entry(name)
        facts = {} if entry.loaded is None else _facts(entry.loaded)
        return ModelInfoResponse(
            model_name=entry.profile.name,
            display_name=entry.profile.display_name,
            loaded=self._state(entry) == "loaded",
            status=self._state(entry),
            error=self._trouble(entry),
            **({"model_id": None, "context_length": entry.profile.context_length} | facts),
        )

    def is_ready(self) -> bool:
        """Whether a request would be answered: the current model's worker lives and gives signs of it.

        A model that was unloaded since, or a server that was started without one, waits for requests too.
        """
        current = self._models.current
        return current is None or self._models.is_serving(current) or current.state == "available"

    def health(self) -> HealthResponse:
        current = self._models.current
        loads = [entry.progress for entry in self._models.entries() if entry.progress is not None]
        running, waiting = self._models.open_requests()
        return HealthResponse(
            status=self._status(),
            timestamp=now(),
            uptime=time.monotonic() - self._started,
            version=__version__,
            boot_id=self._boot_id,
            current_model=self._models.current_name,
            model=None if current is None else self._health(current),
            loading=loads,
            note=self._models.note,
            active_requests=running,
            queued_requests=waiting,
        )

    def _health(self, entry: ModelState) -> ModelHealth:
        return ModelHealth(
            name=entry.profile.name,
            status=self._state(entry),
            model_id=entry.loaded.model_id if entry.loaded is not None else None,
            progress=entry.progress,
            error=self._trouble(entry),
        )

    def _status(self) -> Literal["ok", "loading", "unavailable"]:
        current = self._models.current
        if self.is_ready():
            return "ok"
        return "loading" if current is not None and current.progress is not None else "unavailable"

    def _trouble(self, entry: ModelState) -> str | None:
        """Why the model cannot serve, though it was loaded or asked for; None where nothing is wrong."""
        if entry.error is not None:
            return entry.error.message
        failure = None if entry.loaded is None else entry.loaded.backend.failure
        if failure is None:
            return None
        return f"The worker of {entry.profile.name} {failure}; the next request starts it again."

    def _state(self, entry: ModelState) -> LoadState:
        """`failed` for a worker that lives but is stuck, too."""
        return "failed" if entry.state == "loaded" and self._trouble(entry) else entry.state


def _facts(loaded: ServedModel) -> dict[str, str | int | float | None]:
    info = loaded.backend.info
    return {
        "model_id": loaded.model_id,
        "architecture": info.architecture,
        "device": info.device,
        "dtype": info.dtype,
        "weights": info.weights,
        "draft": info.draft,
        "parameters": info.parameters,
        "memory_bytes": loaded.backend.stats.memory_bytes,
        "kv_cache_bytes": info.kv_cache_bytes,
        "context_length": info.context_length,
        "load_time": loaded.load_time_s,
    }
