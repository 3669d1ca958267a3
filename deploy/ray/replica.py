"""One replica: the whole application, with workers of its own, in the process of a Ray actor."""

import asyncio
import logging

from fastapi import FastAPI
from ray import serve

from app.core.catalogue import CATALOGUE
from app.core.config import Settings, SettingsError, load_settings
from app.core.models_file import with_models_of
from app.main import create_app
from app.services import Services
from deploy.ray.drain import drain_begins

logger = logging.getLogger(__name__)

_POLL_S = 0.25


def is_shared(settings: Settings) -> bool:
    """Returns whether several replicas find the same conversations."""
    url = "" if settings.database_url is None else settings.database_url.get_secret_value()
    return url.startswith(("postgresql://", "postgres://"))


def check_storage(settings: Settings) -> None:
    """Raises SettingsError if several replicas would not find one another's conversations."""
    if not is_shared(settings):
        raise SettingsError(
            "LLM_DATABASE_URL: several replicas need a PostgreSQL database, in which each finds the "
            "conversations of the others. Set it, or run a single replica."
        )


@serve.ingress()
class Replica:
    """The deployment's class, which Ray creates once in each replica, and asks for its health."""

    def __init__(self, drain_s: float) -> None:
        settings = load_settings()
        if serve.get_replica_context().rank.rank > 0:
            check_storage(settings)
        profiles = with_models_of(settings.models_file, CATALOGUE).values()
        self._aliases = {profile.name: profile.aliases for profile in profiles}
        self._application = create_app(settings)
        self._drain_s = drain_s
        self._was_ready = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._application

    @property
    def _services(self) -> Services:
        services: Services = self._application.state.services
        return services

    async def check_health(self) -> None:
        """Returns if the replica is worth keeping; the first time, once it is ready for requests.

        A replica whose model loads or whose worker is started again will answer soon, and a new one would not
        reach a database that this one cannot reach. So only a model that can no longer be served is a reason
        to replace the replica.

        Raises:
            RuntimeError: the model cannot be served.
        """
        while True:
            health = self._services.status.health()
            if health.status == "unavailable":
                reason = None if health.model is None else health.model.error
                raise RuntimeError(reason or f"{health.current_model} cannot be served.")
            if self._was_ready or self._services.status.is_ready():
                break
            await asyncio.sleep(_POLL_S)
        if not self._was_ready:
            self._was_ready = True
            self._draining = asyncio.create_task(self._end_streams())

    async def record_routing_stats(self) -> dict[str, list[str]]:
        """Returns the names of the loaded models, for the router."""
        models = self._services.metrics.activity("").models
        loaded = [model.name for model in models if model.status in ("loaded", "loading")]
        return {"models": [*loaded, *(alias for name in loaded for alias in self._aliases.get(name, ()))]}

    async def _end_streams(self) -> None:
        """Ends every stream with its own event, as at SIGTERM, when the drain has gone on for long enough."""
        await drain_begins()
        logger.info("the replica is drained: its replies have %g s to end", self._drain_s)
        await asyncio.sleep(self._drain_s)
        self._application.state.stopping.set()
