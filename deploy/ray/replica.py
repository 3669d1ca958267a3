"""One replica: the whole application, with workers of its own, in the process of a Ray actor."""

import asyncio
import logging

from fastapi import FastAPI
from ray import serve

from app.core.catalogue import CATALOGUE
from app.core.config import load_settings
from app.core.models_file import with_models_of
from app.main import create_app
from app.services import Services
from deploy.ray.drain import drain_begins
from deploy.ray.readiness import check, check_storage, until_ready

logger = logging.getLogger(__name__)


@serve.ingress()
class Replica:
    """The deployment's class. Ray makes one in each replica, runs its application and asks for its health."""

    def __init__(self, drain_s: float) -> None:
        settings = load_settings()
        if serve.get_replica_context().rank.rank > 0:
            check_storage(settings)
        profiles = with_models_of(settings.models_file, CATALOGUE).values()
        self._aliases = {profile.name: profile.aliases for profile in profiles}
        self._application = create_app(settings)
        self._drain_s = drain_s
        self._draining: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._application

    @property
    def _services(self) -> Services:
        services: Services = self._application.state.services
        return services

    async def check_health(self) -> None:
        """Returns if the replica is worth keeping. Ray's first check waits until it is ready for requests.

        Raises:
            RuntimeError: the model cannot be served.
        """
        if self._draining is None:
            await until_ready(self._services.status)
            self._draining = asyncio.create_task(self._end_streams())
        check(self._services.status)

    async def record_routing_stats(self) -> dict[str, list[str]]:
        """Returns the names and aliases of the loaded models, for the router."""
        models = self._services.metrics.activity("").models
        loaded = [model.name for model in models if model.status in ("loaded", "loading")]
        return {"models": [*loaded, *(alias for name in loaded for alias in self._aliases.get(name, ()))]}

    async def _end_streams(self) -> None:
        """Ends every stream with its own event, as at SIGTERM, when a drain has gone on for long enough."""
        await drain_begins()
        logger.info("the replica is drained: its replies have %g s to end", self._drain_s)
        await asyncio.sleep(self._drain_s)
        self._application.state.stopping.set()
