"""Says whether a replica may be one of several, when it is ready, and when it should be replaced."""

import asyncio

from app.core.config import Settings, SettingsError
from app.services import StatusService

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


async def until_ready(status: StatusService) -> None:
    """Returns when the application is ready for requests. Raises as `check` does."""
    check(status)
    while not status.is_ready():
        await asyncio.sleep(_POLL_S)
        check(status)


def check(status: StatusService) -> None:
    """Returns if the replica is worth keeping.

    One whose model loads, or whose worker is started again, will answer soon; and a new replica would not
    reach a database that this one cannot reach. So only a model that cannot be served is a reason to end it.

    Raises:
        RuntimeError: the model cannot be served. The message has the reason.
    """
    health = status.health()
    if health.status == "unavailable":
        reason = None if health.model is None else health.model.error
        raise RuntimeError(reason or f"{health.current_model} cannot be served.")
