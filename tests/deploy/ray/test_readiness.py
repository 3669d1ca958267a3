"""When a replica is ready, and when it should be replaced."""

import asyncio

import pytest

from app.core.config import Settings, SettingsError
from app.models.schemas import ServerState
from deploy.ray.readiness import check, check_storage, until_ready
from tests.api.fakes import Scripted
from tests.waiting import LIMIT_S


def test_replica_is_ready_once_its_model_is_loaded() -> None:
    async def wait() -> bool:
        scripted = Scripted()
        scripted.state = "loading"
        waiting = asyncio.create_task(until_ready(scripted))
        await asyncio.sleep(0)
        was_waiting = not waiting.done()
        scripted.state = "ok"
        await asyncio.wait_for(waiting, LIMIT_S)
        return was_waiting

    assert asyncio.run(wait())


def test_replica_whose_model_cannot_be_served_never_gets_ready() -> None:
    scripted = Scripted()
    scripted.state = "unavailable"
    with pytest.raises(RuntimeError, match="It broke."):
        asyncio.run(until_ready(scripted))


@pytest.mark.parametrize("state", ["ok", "loading", "degraded"])
def test_replica_that_may_soon_answer_is_kept(state: ServerState) -> None:
    scripted = Scripted()
    scripted.state = state
    check(scripted)


@pytest.mark.parametrize("url", [None, "sqlite:///conversations.db"])
def test_replicas_share_conversations_in_postgresql_only(url: str | None) -> None:
    with pytest.raises(SettingsError, match="several replicas need a PostgreSQL database"):
        check_storage(Settings(_env_file=None, database_url=url))
    check_storage(Settings(_env_file=None, database_url="postgresql://me@localhost/conversations"))
