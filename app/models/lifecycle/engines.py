"""Starts the engine that serves a model: a worker process on this machine, or a remote engine."""

import os
from typing import Protocol

from app.core.catalogue import ModelProfile
from app.core.config import Settings
from app.core.errors import ModelLoadFailed
from app.core.literals import Quantization
from app.engine.backend import EngineBackend
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import Progress, WorkerSpec
from app.models.hub.client import Weights
from app.models.hub.progress import LoadReporter


class EngineStarter(Protocol):
    """Starts the backends of all models. Call `close` after the last backend is closed."""

    def prepare(self) -> None:
        """Starts the preparation that makes later starts fast, without waiting for it."""

    async def keep_prepared(self) -> None:
        """Repeats the preparation whenever it is lost. It may return at once, and can be cancelled."""

    def close(self) -> None: ...

    async def start(self, spec: WorkerSpec, report: LoadReporter) -> EngineBackend:
        """Returns a backend that is ready to serve the model of `spec`. `report` is called with its stages.

        Raises:
            ModelUnavailable: the model cannot be served.
        """

    async def connect(self, profile: ModelProfile) -> EngineBackend:
        """Returns a backend for a profile that a remote engine serves.

        Raises:
            ModelUnavailable: the engine cannot serve the model.
        """


class WorkerStarter:
    """Starts one worker process for each model, and connects to the remote engines of the others."""

    def __init__(self, settings: Settings, launcher: WorkerLauncher | None = None) -> None:
        self._launcher = (
            WorkerLauncher(settings.fork_server, settings.log_format) if launcher is None else launcher
        )
        self._max_requests = settings.max_active_requests + settings.max_queued_requests
        self._silence_limit_s = settings.worker_timeout

    def prepare(self) -> None:
        self._launcher.start()

    async def keep_prepared(self) -> None:
        await self._launcher.keep_fork_server()

    def close(self) -> None:
        self._launcher.close()

    async def start(self, spec: WorkerSpec, report: LoadReporter) -> EngineBackend:
        def progress(event: Progress) -> None:
            report(event.stage, event.fraction)

        return await WorkerClient.start(
            spec,
            self._launcher,
            report=progress,
            max_requests=self._max_requests,
            stuck_after_s=self._silence_limit_s,
        )

    async def connect(self, profile: ModelProfile) -> EngineBackend:
        from app.engine.remote.backend import RemoteBackend  # its HTTP client takes a while to import

        assert profile.remote is not None, "only a remote engine is connected to"
        variable = profile.remote.api_key_env
        key = None if variable is None else os.environ.get(variable, "").strip()
        if key == "":
            raise ModelLoadFailed(
                f"The variable {variable} is not set, which has the key of {profile.name}'s remote engine.",
                hint="Set it, and start the server again.",
            )
        return await RemoteBackend.start(profile, profile.remote, key, max_requests=self._max_requests)


def worker_spec(
    settings: Settings,
    profile: ModelProfile,
    weights: Weights,
    *,
    quantization: Quantization,
    draft: Weights | None,
    converts_to: str | None,
    low_priority: bool,
) -> WorkerSpec:
    """Returns the specification of a worker for these weights, with `draft` as its draft model, if any.

    `converts_to` is the folder for safetensors made from a pickle. With `low_priority`, other models keep
    answering during the load.
    """
    return WorkerSpec(
        model_path=str(weights.path),
        model_name=profile.name,
        adapter_path=None if weights.adapter is None else str(weights.adapter),
        device=settings.device,
        dtype=settings.dtype,
        quantization=quantization,
        threads=settings.threads,
        context_length=profile.context_length,
        max_active_requests=settings.max_active_requests,
        kv_cache_bytes=settings.kv_cache_bytes,
        chat_template=weights.source.chat_template,
        stop=weights.source.stop,
        draft_path=None if draft is None else str(draft.path),
        draft_name=None if draft is None else draft.source.model_id,
        log_level=settings.log_level,
        log_format=settings.log_format,
        converts_to=converts_to,
        low_priority=low_priority,
    )
