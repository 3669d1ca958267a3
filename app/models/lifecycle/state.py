"""Keeps the state of one model: not loaded, loading, loaded or failed."""

from dataclasses import dataclass

from app.core.catalogue import ModelProfile
from app.core.errors import DomainError
from app.engine.backend import EngineTotals
from app.models.lifecycle.load_task import Load
from app.models.lifecycle.served_model import ServedModel
from app.models.schemas import LoadProgress, LoadState


@dataclass(slots=True, eq=False)
class ModelState:
    """The state of one model. It has at most one backend and at most one load in progress.

    `pins` counts the requests that use the model or wait for it, `error` is the error of the last load, and
    `measured_bytes` is what the last worker took, unless it held a draft model as well. `is_recovering` from
    the failure of a worker until another one serves. `last_used` is on the monotonic clock. `totals` are
    those of all backends that were taken out of service.
    """

    profile: ModelProfile
    loaded: ServedModel | None = None
    load: Load | None = None
    error: DomainError | None = None
    pins: int = 0
    last_used: float = 0.0
    measured_bytes: int | None = None
    is_recovering: bool = False
    totals: EngineTotals = EngineTotals()

    @property
    def name(self) -> str:
        return self.profile.name

    @property
    def is_remote(self) -> bool:
        """Whether another server runs the model, so that it takes no memory here."""
        return self.profile.remote is not None

    @property
    def is_serving(self) -> bool:
        """Whether the model is loaded and its backend can serve."""
        return self.loaded is not None and self.loaded.backend.failure is None

    @property
    def is_idle(self) -> bool:
        """Whether no request uses the model or waits for it."""
        return self.pins == 0 and (self.loaded is None or self.loaded.backend.stats.open_requests == 0)

    @property
    def progress(self) -> LoadProgress | None:
        """The progress of the load; None if none is in progress."""
        return None if self.load is None or self.load.is_done else self.load.progress

    @property
    def status(self) -> LoadState:
        if self.loaded is not None and self.loaded.backend.is_alive:
            return "loaded"
        if self.progress is not None:
            return "loading"
        return "available" if self.error is None and self.loaded is None else "failed"
