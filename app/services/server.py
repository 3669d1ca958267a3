"""Defines the services of models, storage and the state of the server."""

from collections.abc import AsyncGenerator
from typing import Protocol

from app.models.lifecycle.switch import LoadEvent
from app.models.schemas import (
    ActivityResponse,
    HealthResponse,
    ModelInfoResponse,
    ModelListResponse,
    UnloadModelResponse,
)


class ModelService(Protocol):
    """Loads, switches and unloads models."""

    async def start(self) -> None:
        """Starts loading the current model and returns without waiting for it."""

    async def close(self) -> None:
        """Ends every load and every worker. Open requests end with ShuttingDown."""

    def switch(self, name: str, /) -> AsyncGenerator[LoadEvent, None]: ...

    def load(self, name: str | None, /) -> AsyncGenerator[LoadEvent, None]: ...

    async def unload(self, name: str | None, /) -> UnloadModelResponse: ...


class StatusService(Protocol):
    """Reports the state of the server and its models, without changing it."""

    async def list_models(self) -> ModelListResponse: ...

    def info(self, name: str | None = None, /) -> ModelInfoResponse: ...

    def is_ready(self) -> bool: ...

    def health(self) -> HealthResponse: ...


class MetricsService(Protocol):
    """Counts requests over HTTP, and reports all figures."""

    def count_http(self, surface: str, status: int, seconds: float, /) -> None: ...

    def activity(self, owner: str, /) -> ActivityResponse: ...

    async def report(self) -> bytes:
        """Returns the figures as text for Prometheus."""


class StorageService(Protocol):
    """Keeps the conversations."""

    async def start(self) -> None:
        """Opens the storage. If that fails, it is tried again while the server runs."""

    async def close(self) -> None:
        """Closes the storage. Call it after the last turn has ended."""
